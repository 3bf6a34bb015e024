"""The trials of a study as a report shows them: how they climbed its rungs, and where each of them ended."""

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
    top1: str
    reason: str


class Left(NamedTuple):
    """One trial that was measured on a rung and has gone no further so far."""

    trial: int
    recipe: str
    rung: str
    """The highest that it came to."""
    score: float
    """There, percent."""
    reason: str


class Point(NamedTuple):
    """One trial in the plot of peak LR against Top-1."""

    trial: int
    recipe: str
    peak_lr: float
    top1: float
    """Of one that was left on a rung the score there."""
    decay: str
    state: str
    """Of its latest run, or `left`."""
    level: int
    """Of the rung of that run, from 1; 0 for a full run."""


def finished_trials(state: StudyState) -> list[Trial]:
    """Trials that were trained in full, the highest Top-1 first."""
    return sorted(
        (t for t in trials_of(state) if t.finished), key=lambda trial: trial.score, reverse=True
    )


def is_left(trial: Trial) -> bool:
    """Whether a trial has gone no further than a rung, though nothing was wrong with it."""
    return trial.alive and not trial.running and not trial.finished


def fates(state: StudyState) -> str:
    """What became of the trials, in one sentence; empty before the first."""
    trials = trials_of(state)
    ends = Counter("left on a rung" if is_left(trial) else trial.runs[-1].state for trial in trials)
    ends["trained in full"] = ends.pop("completed", 0)
    if not trials:
        return ""
    said = [f"{ends[end]:,} {end}" for end in FATES if ends[end]]
    return f"Of {wording.count(len(trials), 'trial')}: {', '.join(said)}."


def rung_rows(state: StudyState) -> tuple[RungRow, ...]:
    """Lowest rung first; of Hyperband one bracket after the other."""
    rows, bracket = [], 1
    for found in summaries(state):
        name = found.rung.label + (
            f", bracket {bracket}" if state.config.pruner == "hyperband" else ""
        )
        bracket += found.rung == state.config.rungs[-1]
        tau = wording.number(found.tau)
        rows.append(RungRow(name, found.num_trials, found.num_promoted, found.num_regardless, tau))
    return tuple(rows)


def rung_note(state: StudyState) -> str:
    """What the rungs are, and what the columns of their table mean."""
    return (
        f"Every trial begins on the lowest rung{' of its bracket' if state.config.pruner == 'hyperband' else ''}, "
        f"and of {state.config.reduction_factor} or more on a rung the best goes up. One in {REGARDLESS_EVERY} goes up "
        "regardless of its score, since only such trials show what a rung does to those that it leaves. Kendall's tau "
        "compares the scores on a rung with those one level up, over the promoted trials alone: near 1 the ranking "
        "held, near 0 the rung said nothing, and over a few trials tau says little."
    )


def run_row(config: StudyConfig, record: RunRecord) -> RunRow:
    """A run as it is listed among its like."""
    return RunRow(
        id=wording.run_name(config, record.run) if config.is_comparison else record.run.id,
        recipe=record.run.recipe.label,
        state=record.state,
        epochs=f"{record.epochs} of {record.run.stop_epochs}",
        trained=str(record.epochs_trained)
        + (f" + {reused} taken over" if (reused := record.epochs_reused) else ""),
        top1=wording.number(record.top1),
        reason=record.reason,
    )


def left_trials(state: StudyState) -> tuple[Left, ...]:
    """Trials that were left on a rung, those on the highest one first; the reason is the place among all there."""
    trials = trials_of(state)
    scores: dict[
        tuple[int, int], list[float]
    ] = {}  # by height of the ladder, which brackets differ in, and level
    for trial in trials:
        for level, score in enumerate(trial.scores, start=1):
            scores.setdefault((len(trial.ladder), level), []).append(score)
    for peers in scores.values():
        peers.sort()

    def left(trial: Trial) -> Left:
        rung, peers = str(trial.ladder[trial.level - 1]), scores[len(trial.ladder), trial.level]
        place = 1 + len(peers) - bisect_right(peers, trial.score)
        reason = f"place {place} of {len(peers)} on rung {rung}"
        return Left(trial.number, trial.recipe.label, rung, trial.score, reason)

    return tuple(left(trial) for trial in best_first(trials) if is_left(trial))


def points_of(state: StudyState) -> tuple[Point, ...]:
    """The trials with something measured in their latest run."""
    found = []
    for trial in trials_of(state):
        last = trial.runs[-1]
        top1, fate = (trial.score, "left") if is_left(trial) else (last.top1, last.state)
        if last.measurements:
            on_rung = last.run.kind == "rung"
            level = (
                state.config.rungs.index(trial.ladder[len(trial.runs) - 1]) + 1 if on_rung else 0
            )
            recipe = trial.recipe
            found.append(
                Point(
                    trial.number, recipe.label, recipe.peak_lr, top1, recipe.decay.name, fate, level
                )
            )
    return tuple(found)
