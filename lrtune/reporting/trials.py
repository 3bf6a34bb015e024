"""The trials of a study as a report shows them: how they climbed its rungs and where they ended."""

import math
from bisect import bisect_right
from collections import Counter
from typing import NamedTuple

from lrtune.core.run import RunRecord
from lrtune.core.study import StudyConfig, StudyState
from lrtune.decide.rungs import REGARDLESS_EVERY, summaries
from lrtune.decide.trials import Trial, best_first, trials_of
from lrtune.reporting import wording

FATES = ("trained in full", "left on a rung", "pruned", "diverged", "failed", "running")


class RungRow(NamedTuple):
    """One rung, in words."""

    rung: str
    num_trials: int
    num_promoted: int
    num_regardless: int
    tau: str
    """Kendall's tau between the scores here and one level up."""


class RunRow(NamedTuple):
    """One run of the search, in words."""

    id: str
    recipe: str
    state: str
    epochs: str
    """Finished."""
    trained: str
    """What the epochs of a finished run cost."""
    value: str
    reason: str


class Left(NamedTuple):
    """One trial that was measured on a rung and has gone no further so far."""

    trial: int
    recipe: str
    rung: str
    """The highest that it came to."""
    value: float
    """There; that of the averaged weights where these are judged."""
    reason: str


class Point(NamedTuple):
    """One trial in the plot of peak LR against the objective."""

    trial: int
    recipe: str
    peak_lr: float
    value: float
    """Of one that was left on a rung the value there; nan of one that diverged."""
    decay: str
    state: str
    """Of its latest run, or `left`."""
    level: int
    """Of the rung of that run, from 1; 0 for a full run."""


def finished_trials(state: StudyState) -> list[Trial]:
    """Trials that were trained in full, the best first."""
    return sorted(
        (t for t in trials_of(state) if t.finished), key=lambda trial: trial.score, reverse=True
    )


def is_left(trial: Trial) -> bool:
    """Whether a trial has gone no further than a rung, though nothing was wrong with it."""
    return trial.alive and not trial.running and not trial.finished


def fates(state: StudyState) -> str:
    """What became of the trials, in a sentence or two; empty before the first."""
    trials = trials_of(state)
    ends = Counter("left on a rung" if is_left(trial) else trial.runs[-1].state for trial in trials)
    ends["trained in full"] = ends.pop("completed", 0)
    if not trials:
        return ""
    parts = [f"{ends[end]:,} {end}" for end in FATES if ends[end]]
    sentence = f"Of {wording.count(len(trials), 'trial')}: {', '.join(parts)}."
    if num_early := sum(record.epochs_missing > 0 for record in state.records):
        runs = wording.count(num_early, "run")
        sentence += f" {runs} of all ended before the last epoch by their own early stopping."
    return sentence


def rung_rows(state: StudyState) -> tuple[RungRow, ...]:
    """Lowest rung first; of Hyperband one bracket after the other."""
    rows, bracket = [], 1
    for summary in summaries(state):
        name = summary.rung.label + (
            f", bracket {bracket}" if state.config.pruner == "hyperband" else ""
        )
        bracket += summary.rung == state.config.rungs[-1]
        tau = wording.number(summary.tau)
        rows.append(
            RungRow(name, summary.num_trials, summary.num_promoted, summary.num_regardless, tau)
        )
    return tuple(rows)


def rung_note(state: StudyState) -> str:
    """What the rungs are, and what the columns of their table mean."""
    of_bracket = " of its bracket" if state.config.pruner == "hyperband" else ""
    return (
        f"Every trial begins on the lowest rung{of_bracket}, and of "
        f"{state.config.reduction_factor} or more on a rung the best goes up. One in "
        f"{REGARDLESS_EVERY} goes up regardless of its score, since only such trials show what a "
        "rung does to those that it leaves. Kendall's tau compares the scores on a rung with those "
        "one level up, over the promoted trials alone: near 1 the ranking held, "
        "near 0 the rung said nothing, and over a few trials tau says little."
    )


def run_row(config: StudyConfig, record: RunRecord) -> RunRow:
    """A run as it is listed among its like."""
    return RunRow(
        id=wording.run_name(config, record.run) if config.is_comparison else record.run.id,
        recipe=wording.recipe_label(record.run.recipe, config.baseline),
        state=record.state,
        epochs=f"{record.epochs} of {record.run.stop_epochs}",
        trained=str(record.epochs_trained)
        + (f" + {reused} taken over" if (reused := record.epochs_reused) else ""),
        value=config.objective.text(config.objective.value(record.metrics)),
        reason=record.reason,
    )


def left_trials(state: StudyState) -> tuple[Left, ...]:
    """Trials that were left on a rung, those on the highest rung first.

    Their reason is their place among all trials of the rung.
    """
    trials = trials_of(state)
    scores: dict[
        tuple[int, int], list[float]
    ] = {}  # by height of the ladder, which brackets differ in, and level
    for trial in trials:
        for level, score in enumerate(trial.scores, start=1):
            scores.setdefault((len(trial.ladder), level), []).append(score)
    for peers in scores.values():
        peers.sort()

    def row(trial: Trial) -> Left:
        rung, peers = str(trial.ladder[trial.level - 1]), scores[len(trial.ladder), trial.level]
        place = 1 + len(peers) - bisect_right(peers, trial.score)
        reason = f"place {place} of {len(peers)} on rung {rung}"
        value = state.config.objective.signed(trial.score)
        return Left(trial.number, trial.recipe.label, rung, value, reason)

    return tuple(row(trial) for trial in best_first(trials) if is_left(trial))


def points_of(state: StudyState) -> tuple[Point, ...]:
    """The trials with something measured in their latest run."""
    objective, points = state.config.objective, []
    for trial in trials_of(state):
        last = trial.runs[-1]
        value, fate = objective.value(last.metrics), str(last.state)
        if fate == "diverged":
            value = math.nan
        elif is_left(trial):
            value, fate = objective.signed(trial.score), "left"
        if last.measurements:
            on_rung = last.run.kind == "rung"
            level = (
                state.config.rungs.index(trial.ladder[len(trial.runs) - 1]) + 1 if on_rung else 0
            )
            recipe = trial.recipe
            points.append(
                Point(
                    trial.number,
                    wording.recipe_label(recipe, state.config.baseline),
                    recipe.peak_lr,
                    value,
                    recipe.decay.name,
                    fate,
                    level,
                )
            )
    return tuple(points)
