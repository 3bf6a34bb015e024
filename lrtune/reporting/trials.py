"""The trials of a study as a report shows them: the looks that they had, and where they ended."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from lrtune.core.objective import Objective
from lrtune.core.run import RunRecord
from lrtune.core.study import Look, StudyConfig, StudyState
from lrtune.decide.looks import LookSummary, full_lr
from lrtune.decide.plan import outcome
from lrtune.decide.recommend import Contender
from lrtune.decide.trials import Trial, best_first, trials_of
from lrtune.reporting import wording

ENDS = ("pruned", "diverged", "failed", "running", "interrupted")


class LookRow(NamedTuple):
    """One look, in words."""

    look: str
    num_trials: int
    tau: str
    """Kendall's tau between the scores here and in the next look."""
    best_lr: str
    """Where the best peak LR lies, with its interval."""
    agreement: str
    """Kendall's tau between what looks are ranked by and the objective."""


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
    """One trial that had looks and has gone no further so far."""

    trial: int
    recipe: str
    look: int
    """The last that it had, from 1."""
    value: float
    """What it was ranked by after that."""
    reason: str


class Point(NamedTuple):
    """One trial in the plot of peak LR against the objective."""

    trial: int
    recipe: str
    peak_lr: float
    value: float
    """After its first look, which all had alike, or its full run; nan of one that diverged."""
    decay: str
    state: str
    """Of its latest run."""
    num_looks: int
    """0 for a full run."""


def finished_trials(state: StudyState) -> list[Trial]:
    """Trials that were trained in full, the best first."""
    return sorted(
        (t for t in trials_of(state) if t.finished), key=lambda trial: trial.score, reverse=True
    )


def unconfirmed_value(state: StudyState, contender: Contender) -> tuple[Objective, float, int]:
    """What the search knows of a recipe without fresh seeds.

    Returns:
        The metric, its value, and the number of looks that it is of; 0 for one full run.
    """
    if not math.isnan(contender.search_value):
        return state.config.objective, contender.search_value, 0
    # By its recipe, since the baseline itself is among the trials.
    trial = next(t for t in best_first(trials_of(state)) if t.recipe == contender.recipe)
    ranked_by = state.config.ranked_by
    return ranked_by, ranked_by.signed(trial.score), trial.level


def left_of(state: StudyState) -> list[Trial]:
    """Trials that had looks and no more, though nothing was wrong with them, best first."""
    racing = _racing(state)
    return [
        trial
        for trial in best_first(trials_of(state))
        if not trial.running and not trial.finished and trial.number not in racing
    ]


def _racing(state: StudyState) -> set[int]:
    """The finalists, once they race."""
    return {record.run.trial for record in state.of_kind("confirm")}


def fates(state: StudyState) -> str:
    """What became of the trials, in a sentence or two; empty before the first."""
    trials = trials_of(state)
    if not trials:
        return ""
    racing = _racing(state) if state.config.looks else set()
    left = {trial.number: trial.level for trial in left_of(state)}
    looks = Counter(left.values())
    ends = Counter(
        wording.run_state(t.runs[-1])
        for t in trials
        if t.number not in left and t.number not in racing
    )
    race = "raced in full" if outcome(state) else "in the race of full runs"
    parts = [f"{len(racing):,} {race} with fresh seeds"] if racing else []
    for level in sorted(looks, reverse=True):
        parts.append(f"{looks[level]:,} had {wording.count(level, 'look')}")
    if num_full := ends["completed"]:
        parts.append(f"{num_full:,} trained in full")
    parts += [f"{ends[end]:,} {end}" for end in ENDS if ends[end]]
    sentence = f"Of {wording.count(len(trials), 'trial')}: {', '.join(parts)}."
    if len(parts) == 1:  # of all alike no number is said twice
        all_trials = f"All {len(trials):,} trials" if len(trials) > 1 else "The one trial"
        sentence = f"{all_trials} {parts[0].partition(' ')[2]}."
    if num_early := sum(record.epochs_missing > 0 for record in state.records):
        runs = wording.count(num_early, "run")
        sentence += f" {runs} of all ended before the last epoch by their own early stopping."
    return sentence


def look_rows(config: StudyConfig, looks: Sequence[LookSummary]) -> tuple[LookRow, ...]:
    """The looks in their order; empty where the study has none."""
    return tuple(
        LookRow(
            f"{number}: {look_name(config, summary.look)}",
            summary.num_trials,
            wording.number(summary.tau),
            wording.best_lr(summary.best_lr),
            wording.number(summary.agreement),
        )
        for number, summary in enumerate(looks, start=1)
    )


def look_name(config: StudyConfig, look: Look) -> str:
    """`3 epochs`, or `3 epochs, new seed`."""
    return look.label + (", new seed" if look.seed != config.seed else "")


def look_note(config: StudyConfig, looks: Sequence[LookSummary]) -> str:
    """What the looks are, and what the columns of their table mean."""
    ranked_by, objective = config.ranked_by, config.objective
    note = (
        "A look is a short run with the whole schedule in it. Every recipe has the first, the best "
        "few have the others, and the best of these race in full where the budget allows it. Looks "
        f"are ranked by {ranked_by.title}. "
        "Kendall's tau compares two rankings of the trials that have both: near 1 they agree, near "
        "0 one says nothing of the other, and over a few trials it says little."
    )
    if ranked_by.metric != objective.metric:
        between = f"{ranked_by.title} and {objective.title}"
        note += f" The first tau is that with the next look, the second that between {between}."
    if any(summary.best_lr for summary in looks):
        note += (
            " The best peak LR is the top of a parabola through the better half of the trials, "
            "with its 95 % interval over them."
        )
    if (best := full_lr(looks, config.epochs)) is not None:
        epochs = wording.count(config.epochs, "epoch")
        note += (
            f" It moves with the length of the run by more than chance explains: in {epochs} it "
            f"would lie at {wording.best_lr(best)}, if it moves on like this."
        )
    return note


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
    """Trials that had looks and went no further, best first; their place is among their like."""
    trials = trials_of(state)
    scores: dict[int, list[float]] = {}
    for trial in trials:
        for level in range(1, trial.level + 1):
            scores.setdefault(level, []).append(trial.score_at(level))
    for peers in scores.values():
        peers.sort()

    def row(trial: Trial) -> Left:
        peers = scores[trial.level]
        place = 1 + len(peers) - bisect_right(peers, trial.score)
        reason = f"place {place} of {len(peers)} in look {trial.level}"
        value = state.config.ranked_by.signed(trial.score)
        return Left(trial.number, trial.recipe.label, trial.level, value, reason)

    return tuple(map(row, left_of(state)))


def points_of(state: StudyState) -> tuple[Point, ...]:
    """The trials with something measured in their first run."""
    objective, points = state.config.objective, []
    for trial in trials_of(state):
        first, last = trial.runs[0], trial.runs[-1]
        if first.measurements:
            value = objective.value(first.metrics)
            points.append(
                Point(
                    trial.number,
                    wording.recipe_label(trial.recipe, state.config.baseline),
                    trial.recipe.peak_lr,
                    math.nan if first.state == "diverged" else value,
                    trial.recipe.decay.name,
                    last.state,
                    len(trial.runs) if last.run.kind == "look" else 0,
                )
            )
    return tuple(points)
