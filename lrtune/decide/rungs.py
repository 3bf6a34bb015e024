"""Asynchronous successive halving over the rungs of a study: which trial goes up, and to what run.

Every trial begins on the lowest rung. Of those that were measured on a rung the best go up
(`factor_at` says how many), by a run of their own: a longer one to which the whole schedule is
compressed, or the first epochs of the full run, which go on where the last ones stopped. It is
asynchronous in that no worker waits for a rung to fill: a trial is left, and promoted when it turns
out to be good enough (Li et al. 2020, arXiv 1810.05934, algorithm 2). But a rung never has more
than its share above it, so those that came first are not promoted for being first (D-ASHA, arXiv
2201.06834).

A few are promoted whatever their score. Only they show what the rung's score is worth: of the
others the bad ones are never seen again.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from scipy import stats

from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.core.study import PrunerName, Rung, StudyConfig, StudyState
from lrtune.decide.trials import Trial, ladder_of, trials_of

LADDERS: tuple[PrunerName, ...] = ("fair", "halving", "hyperband")
"""Pruners whose trials climb rungs."""
REGARDLESS_EVERY = 16
"""One in so many trials goes up from each rung whatever its score."""
MIN_COMPRESSED_STEPS = 60
"""Optimizer steps of the shortest compressed run: as many as in the bank of `benchmarks/`; fewer
were not tried."""


def automatic_rungs(
    pruner: PrunerName,
    epochs: int,
    steps_per_epoch: int,
    reduction_factor: int = 3,
    *,
    start_epochs: int = 0,
) -> tuple[Rung, ...]:
    """The rungs of a pruner whose user did not name any.

    Of `fair`, a compressed run of a 27th of the full one, but of `MIN_COMPRESSED_STEPS` at least
    and no shorter than its start, and then the first third of the full run, if that is three times
    as long. Of the others the first epochs of the full run, a `reduction_factor` apart, from one
    epoch up.

    Args:
        pruner: whose rungs.
        epochs: of the full run.
        steps_per_epoch: optimizer steps.
        reduction_factor: of the other pruners.
        start_epochs: what it costs to start a run.
    """
    if pruner == "fair":
        least = max(1, start_epochs, math.ceil(MIN_COMPRESSED_STEPS / steps_per_epoch))
        shortest = max(least, round(epochs / 27))
        third = round(epochs / 3)
        rungs = (Rung(shortest, compressed=True), *[Rung(third)] * (third >= 3 * shortest))
        return rungs if shortest < epochs else ()
    if pruner not in LADDERS:
        return ()
    lengths = [1]
    while lengths[-1] * reduction_factor < epochs:
        lengths.append(lengths[-1] * reduction_factor)
    return tuple(Rung(length) for length in lengths if length < epochs)


def check_rungs(rungs: tuple[Rung, ...], pruner: PrunerName, epochs: int) -> None:
    """Whether rungs that a user named go with the pruner and the length of a full run.

    Raises:
        InputError: they do not.
    """
    problems = [
        f"a rung must be shorter than the full run of {epochs} epochs, but got {rung}."
        for rung in rungs
        if rung.epochs >= epochs
    ]
    if pruner not in LADDERS:
        problems.append(
            f"`rungs` go with `pruner` {', '.join(LADDERS)}, but got {pruner}, which has none."
        )
    if problems:
        raise InputError(problems)


def first_run(state: StudyState, number: int, recipe: Recipe) -> Run:
    """The run that trial `number` begins with."""
    return _run_at(state, number, recipe, ladder_of(state.config, number), 0)


def promotion(state: StudyState, *, settled: bool = False) -> Run | None:
    """The next run of a trial that deserves it; `None` where no trial does.

    Looks from the highest rung down.

    Args:
        state: the study.
        settled: whether no trial will be added. Until then a rung with fewer than
            `reduction_factor` trials promotes none of them; after it at least one.
    """
    trials = trials_of(state)
    for ladder, peers in _by_ladder(trials):
        for level in range(len(ladder), 0, -1):
            trial = next(_deserving(state.config, peers, level, settled=settled), None)
            if trial is not None:
                return _run_at(state, trial.number, trial.recipe, ladder, level)
    return None


def factor_at(config: StudyConfig, ladder: tuple[Rung, ...], level: int) -> int:
    """How many trials of a level there are for each one that goes up.

    It is `reduction_factor`, or the factor by which the next run is longer where that is more. So
    no level costs more than the one below it.
    """
    lengths = [*(rung.epochs for rung in ladder), config.epochs]
    return max(config.reduction_factor, round(lengths[level] / lengths[level - 1]))


def is_regardless(config: StudyConfig, number: int, level: int) -> bool:
    """Whether a trial goes up from a level whatever its score.

    That depends on its number alone. Of Hyperband it is the number within the bracket, since
    trials are dealt to the brackets in turn.
    """
    within = number // (len(config.rungs) + 1) if config.pruner == "hyperband" else number
    return (within + 5 * level) % REGARDLESS_EVERY == REGARDLESS_EVERY - 1


@dataclass(frozen=True, kw_only=True)
class RungSummary:
    """What became of the trials of one rung."""

    rung: Rung
    num_trials: int
    num_promoted: int
    """On their score."""
    num_regardless: int
    """Promoted whatever their score, and not on it."""
    tau: float
    """Kendall's tau between the scores here and one level up, over all that went up; nan with fewer
    than three."""


def summaries(state: StudyState) -> list[RungSummary]:
    """The rungs of a study, lowest first; empty where it has none."""
    trials = trials_of(state)
    rungs = []
    for ladder, peers in _by_ladder(trials):
        for level, rung in enumerate(ladder, start=1):
            entered = [trial for trial in peers if trial.level >= level]
            promoted = [trial for trial in entered if len(trial.runs) > level]
            num_promoted = len(_on_merit(state.config, promoted, entered, level))
            both = [(t.scores[level - 1], t.scores[level]) for t in promoted if t.level > level]
            tau = (
                stats.kendalltau(*zip(*both, strict=True)).statistic
                if len(both) > 2
                else float("nan")
            )
            rungs.append(
                RungSummary(
                    rung=rung,
                    num_trials=len(entered),
                    num_promoted=num_promoted,
                    num_regardless=len(promoted) - num_promoted,
                    tau=float(tau),
                )
            )
    return rungs


def _by_ladder(trials: list[Trial]) -> list[tuple[tuple[Rung, ...], list[Trial]]]:
    """Trials that climb the same rungs; all of them, but for those of Hyperband."""
    by_height: dict[int, list[Trial]] = {}
    for trial in trials:
        by_height.setdefault(len(trial.ladder), []).append(trial)
    return [(peers[0].ladder, peers) for peers in by_height.values()]


def _deserving(
    config: StudyConfig, peers: list[Trial], level: int, *, settled: bool
) -> Iterator[Trial]:
    """Trials that may go up from a level: by turn first, then by merit."""
    entered = [trial for trial in peers if trial.level >= level]
    for trial in entered:
        if is_regardless(config, trial.number, level) and _waits(trial, level):
            yield trial
    quota = len(entered) // factor_at(config, peers[0].ladder, level)
    if settled:
        quota = max(1, quota)
    promoted = [trial for trial in entered if len(trial.runs) > level]
    if len(_on_merit(config, promoted, entered, level)) >= quota:
        return
    best = sorted(entered, key=lambda trial: trial.scores[level - 1], reverse=True)[:quota]
    yield from (trial for trial in best if _waits(trial, level))


def _on_merit(
    config: StudyConfig, promoted: list[Trial], entered: list[Trial], level: int
) -> list[Trial]:
    """The promoted trials, of those that entered a level, that did not need to go up regardless."""
    if not promoted:
        return []
    share = sorted((trial.scores[level - 1] for trial in entered), reverse=True)
    last = share[max(1, len(entered) // factor_at(config, entered[0].ladder, level)) - 1]
    return [
        t
        for t in promoted
        if not is_regardless(config, t.number, level) or t.scores[level - 1] >= last
    ]


def _waits(trial: Trial, level: int) -> bool:
    return len(trial.runs) == level and not trial.running and trial.alive


def _run_at(
    state: StudyState, number: int, recipe: Recipe, ladder: tuple[Rung, ...], level: int
) -> Run:
    """The run that a trial does at a level: that of a rung, or above them the full one."""
    epochs = state.config.epochs
    full = Run(
        id=f"trial-{number:04d}", kind="full", trial=number, recipe=recipe, recipe_epochs=epochs,
        horizon_epochs=epochs, stop_epochs=epochs, seed=state.config.seed,
    )  # fmt: skip
    if level == len(ladder):
        return full
    rung = ladder[level]
    horizon = rung.epochs if rung.compressed else epochs
    return replace(
        full,
        id=f"{full.id}-rung-{rung}",
        kind="rung",
        horizon_epochs=horizon,
        stop_epochs=rung.epochs,
    )
