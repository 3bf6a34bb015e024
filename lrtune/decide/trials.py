"""Trials as the rules see them: a recipe, how far up its rungs it has come, and its score there."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from lrtune.core.objective import Metrics, averaged
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run, RunRecord
from lrtune.core.study import Rung, StudyConfig, StudyState


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One recipe tried."""

    number: int
    recipe: Recipe
    ladder: tuple[Rung, ...]
    """The rungs below its full run."""
    runs: tuple[RunRecord, ...]
    """Its runs so far, at least one, lowest rung first."""
    scores: tuple[float, ...]
    """Of its ended runs, higher is better; `-inf` of one that diverged, failed or was pruned."""

    @property
    def level(self) -> int:
        """Runs that have ended: 0 while its first is running."""
        return len(self.scores)

    @property
    def score(self) -> float:
        """At its highest level; nan before the first."""
        return self.scores[-1] if self.scores else math.nan

    @property
    def alive(self) -> bool:
        """Whether every run that has ended was completed."""
        return not self.scores or self.scores[-1] > -math.inf

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


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Trials that are alive and have a score, the highest rung first, then by score.

    Scores of different rungs are not comparable: on each the few best went up. Equal ones keep
    their order.
    """
    ranked = (trial for trial in trials if trial.scores and trial.alive)
    return sorted(
        ranked, key=lambda trial: (trial.level - len(trial.ladder), trial.score), reverse=True
    )


def ladder_of(config: StudyConfig, number: int) -> tuple[Rung, ...]:
    """The rungs of trial `number` below its full run.

    Of Hyperband (Li et al. 2018, arXiv 1603.06560) the brackets begin at one rung after the other,
    and trials are dealt to them in turn, so that each bracket gets as many: with few trials
    Optuna's draw by chance starves some of them.
    """
    rungs = config.rungs
    return rungs[number % (len(rungs) + 1) :] if config.pruner == "hyperband" else rungs


def score_of(state: StudyState, record: RunRecord) -> float:
    """What an ended run is ranked by.

    The study's signal, or the objective itself where the schedule came to its end.
    """
    if record.state != "completed":
        return -math.inf
    unfinished = record.run.stop_epochs < record.run.horizon_epochs
    if unfinished:
        return signal_of(state.config, record.metrics)
    return state.config.objective.score(record.metrics)


def signal_of(config: StudyConfig, metrics: Metrics) -> float:
    """The score that an unfinished run is judged by, `-inf` where it was not measured.

    It is that of the averaged weights, unless the study says raw, or the training has none.
    """
    objective = config.objective
    name = averaged(objective.metric)
    if config.signal == "averaged" and name in metrics:
        return replace(objective, metric=name).score(metrics)
    return objective.score(metrics)


def warmup_epochs_of(run: Run) -> float:
    """Warmup of a run in its own epochs."""
    return run.recipe.warmup_epochs * run.horizon_epochs / run.recipe_epochs


def _trial(state: StudyState, number: int, runs: list[RunRecord]) -> Trial:
    ladder = ladder_of(state.config, number)
    runs.sort(key=lambda record: (record.run.horizon_epochs, record.run.stop_epochs))
    return Trial(
        number=number,
        recipe=runs[0].run.recipe,
        ladder=ladder,
        runs=tuple(runs),
        scores=tuple(score_of(state, record) for record in runs if record.state != "running"),
    )
