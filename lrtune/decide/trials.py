"""Trials as the rules see them: a recipe, how far up its rungs it has come, and its score there."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lrtune.core.recipe import Recipe
from lrtune.core.study import Rung, StudyConfig, StudyState
from lrtune.core.trial import Measurement, Run, RunRecord


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
    """Of its ended runs, in points of Top-1, higher is better; `-inf` of one that diverged, failed or was pruned."""

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
        return self.runs[-1].run.kind == "search" and self.runs[-1].state == "completed"

    @property
    def top1(self) -> float:
        """Top-1 of its full run; nan without one."""
        return self.runs[-1].top1 if self.finished else math.nan


def trials_of(state: StudyState) -> list[Trial]:
    """The trials of a study, in the order of their numbers."""
    by_number: dict[int, list[RunRecord]] = {}
    for record in state.records:
        if record.run.kind in ("rung", "search"):
            by_number.setdefault(record.run.trial, []).append(record)
    return [_trial(state, number, by_number[number]) for number in sorted(by_number)]


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Those that are alive and have a score: the fewest rungs left first, and by score among equals in that.

    Scores of different rungs are not comparable: on each the few best went up. Equal ones keep their order.
    """
    ranked = (trial for trial in trials if trial.scores and trial.alive)
    return sorted(ranked, key=lambda trial: (trial.level - len(trial.ladder), trial.score), reverse=True)


def ladder_of(state: StudyState, number: int) -> tuple[Rung, ...]:
    """The rungs of trial `number` below its full run.

    Of Hyperband (Li et al. 2018, arXiv 1603.06560) the brackets begin at one rung after the other, and trials are dealt
    to them in turn, so that each bracket gets as many: with few trials Optuna's draw by chance starves some of them.
    """
    rungs = state.config.rungs
    return rungs[number % (len(rungs) + 1) :] if state.config.pruner == "hyperband" else rungs


def score_of(state: StudyState, record: RunRecord) -> float:
    """What an ended run is ranked by: the study's signal, or Top-1 itself where the schedule came to its end."""
    if record.state != "completed" or not record.measurements:
        return -math.inf
    last = record.measurements[-1]
    unfinished = record.run.stop_epochs < record.run.horizon_epochs
    score = signal_of(state.config, last) if unfinished else last.top1
    return -math.inf if math.isnan(score) else score


def signal_of(config: StudyConfig, measurement: Measurement) -> float:
    """What an unfinished run is judged by, percent: by its averaged weights, unless the study says raw or has none."""
    if config.signal == "averaged" and config.settings.ema_half_life_epochs:
        return measurement.averaged_top1
    return measurement.top1


def warmup_epochs_of(run: Run) -> float:
    """Warmup of a run in its own epochs."""
    return run.recipe.warmup_epochs * run.horizon_epochs / run.recipe_epochs


def _trial(state: StudyState, number: int, runs: list[RunRecord]) -> Trial:
    ladder = ladder_of(state, number)
    runs.sort(key=lambda record: (record.run.horizon_epochs, record.run.stop_epochs))
    return Trial(
        number=number,
        recipe=runs[0].run.recipe,
        ladder=ladder,
        runs=tuple(runs),
        scores=tuple(score_of(state, record) for record in runs if record.state != "running"),
    )
