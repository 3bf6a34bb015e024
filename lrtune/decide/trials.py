"""Trials as the rules see them: a recipe, the looks that it had, and its score in each."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import fmean

from lrtune.core.objective import Metrics
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run, RunRecord
from lrtune.core.study import StudyConfig, StudyState


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One recipe tried."""

    number: int
    recipe: Recipe
    runs: tuple[RunRecord, ...]
    """Its looks so far in their order, or its full run; at least one."""
    scores: tuple[float, ...]
    """Of its ended runs, higher is better; `-inf` of one that diverged, failed or was pruned."""

    @property
    def level(self) -> int:
        """Runs that have ended: 0 while its first is running."""
        return len(self.scores)

    @property
    def score(self) -> float:
        """By all that has ended; nan before that."""
        return self.score_at(self.level)

    def score_at(self, level: int) -> float:
        """The mean over the longest of its first `level` runs; nan of none.

        Scores are comparable among trials of the same level alone.
        """
        if not level:
            return math.nan
        longest = max(record.run.stop_epochs for record in self.runs[:level])
        pairs = zip(self.runs[:level], self.scores[:level], strict=True)
        return fmean(score for record, score in pairs if record.run.stop_epochs == longest)

    def sound_at(self, level: int) -> bool:
        """Whether its first `level` runs have ended, and all of them were completed."""
        return self.level >= level and all(score > -math.inf for score in self.scores[:level])

    @property
    def alive(self) -> bool:
        """Whether every run that has ended was completed."""
        return self.sound_at(self.level)

    @property
    def running(self) -> bool:
        """Whether a run of it has not ended."""
        return self.runs[-1].state == "running"

    @property
    def finished(self) -> bool:
        """Whether it was trained in full."""
        return self.runs[-1].run.kind == "full" and self.runs[-1].state == "completed"

    @property
    def final_metrics(self) -> Metrics:
        """What its full run came to; empty without one."""
        return self.runs[-1].metrics if self.finished else {}


def trials_of(state: StudyState) -> list[Trial]:
    """The trials of a study, in the order of their numbers."""
    global _latest
    grouped = _latest
    if state.config is not grouped.config:
        grouped = _Grouped(config=state.config)
    if state.records is not grouped.records:
        _latest = grouped = _regrouped(grouped, state)
    return list(grouped.trials.values())


@dataclass(frozen=True, kw_only=True)
class _Grouped:
    """The trials of the state that was asked of last.

    In a ledger the next state has the same config and all but a record or two of the same records.
    Where each is read from the database anew, only the one that was asked of last is known again.
    """

    config: StudyConfig | None = None
    records: tuple[RunRecord, ...] = ()
    trials: Mapping[int, Trial] = field(default_factory=dict)
    """By number, in order."""


_latest = _Grouped()


def _regrouped(past: _Grouped, state: StudyState) -> _Grouped:
    """The trials of a state, of which only those are made anew whose runs have changed."""
    pairs = zip_longest(state.records, past.records)
    differing = (
        record for now, before in pairs if now is not before for record in (now, before) if record
    )
    changed = {record.run.trial for record in differing if record.run.is_of_search}
    runs: dict[int, list[RunRecord]] = {}
    for record in state.records if changed else ():
        if record.run.trial in changed and record.run.is_of_search:
            runs.setdefault(record.run.trial, []).append(record)
    trials = {number: trial for number, trial in past.trials.items() if number not in changed}
    trials |= {number: _trial(state, number, of_trial) for number, of_trial in runs.items()}
    return _Grouped(config=state.config, records=state.records, trials=dict(sorted(trials.items())))


def best_first(trials: Iterable[Trial], *, level: int | None = None) -> list[Trial]:
    """Trials that are alive and have a score, best first; equal ones keep their order.

    Args:
        trials: of a study.
        level: ranks by so many looks; by default those that had more come first, since few good
            ones had them.
    """
    if level is not None:
        return sorted(trials, key=lambda trial: trial.score_at(level), reverse=True)
    ranked = (trial for trial in trials if trial.scores and trial.alive)
    return sorted(
        ranked, key=lambda trial: (trial.finished, trial.level, trial.score), reverse=True
    )


def score_of(state: StudyState, record: RunRecord) -> float:
    """What an ended run is ranked by: the objective where it was trained in full.

    A look is ranked by what the study says, by default the validation loss.
    """
    if record.state != "completed":
        return -math.inf
    ranked_by = state.config.ranked_by if record.run.kind == "look" else state.config.objective
    return ranked_by.score(record.metrics)


def warmup_epochs_of(run: Run) -> float:
    """Warmup of a run in its own epochs."""
    return run.recipe.warmup_epochs * run.horizon_epochs / run.recipe_epochs


def _trial(state: StudyState, number: int, runs: list[RunRecord]) -> Trial:
    # By length and then by seed, as the looks are.
    runs.sort(key=lambda record: (record.run.stop_epochs, record.run.seed))
    return Trial(
        number=number,
        recipe=runs[0].run.recipe,
        runs=tuple(runs),
        scores=tuple(score_of(state, record) for record in runs if record.state != "running"),
    )
