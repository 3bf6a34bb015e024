"""Looks: short runs with the whole schedule in them, by which the search chooses its finalists.

Good recipes differ by as little as two seeds do. So every recipe is looked at once, briefly; the
best sixth of them for longer; and the best twelfth of them again, with another seed. The second
kind of look is what tells the recipes that are good from those that were lucky.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy import stats

from lrtune.core.errors import InputError
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.core.study import Look, StudyConfig, StudyState
from lrtune.decide.horizons import BestLR, best_lr, extrapolated
from lrtune.decide.trials import Trial, best_first, score_of, trials_of

MIN_EPOCHS = 3
"""Of a full run: a shorter one is not worth a look."""
MIN_STEPS = 60
"""Optimizer steps of the shortest look: as many as in the bank of `benchmarks/`; fewer were not
tried."""
SECOND, THIRD = 6, 12
"""One recipe in so many has a second look, and a third."""
OTHER_SEED = 10_000
"""What is added to the study's seed for another look of the same length: far from the fresh seeds,
which follow the study's."""


def automatic_looks(
    epochs: int, steps_per_epoch: int, *, seed: int, start_epochs: int = 0
) -> tuple[Look, ...]:
    """The looks of a study whose user did not name their lengths; none where they save nothing.

    The first takes a 27th of the full run, but `MIN_STEPS` at least, and no less than its start.
    The second takes a ninth of it, but three times the first, and half the full run at most.

    Args:
        epochs: of the full run.
        steps_per_epoch: optimizer steps.
        seed: of the study.
        start_epochs: what it costs to start a run.
    """
    short = max(1, start_epochs, math.ceil(MIN_STEPS / steps_per_epoch), round(epochs / 27))
    long = min(max(round(epochs / 9), 3 * short), epochs // 2)
    return looks_of(short, long, seed=seed) if epochs >= MIN_EPOCHS and short < epochs else ()


def looks_of(short: int, long: int, *, seed: int) -> tuple[Look, ...]:
    """The looks of two lengths, or of one where the other is not longer."""
    if long <= short:
        return (
            Look(short, seed=seed, one_in=1),
            Look(short, seed=seed + OTHER_SEED, one_in=SECOND),
            Look(short, seed=seed + 2 * OTHER_SEED, one_in=SECOND),
        )
    return (
        Look(short, seed=seed, one_in=1),
        Look(long, seed=seed, one_in=SECOND),
        Look(long, seed=seed + OTHER_SEED, one_in=THIRD),
    )


def parse_looks(text: str, epochs: float, *, seed: int) -> tuple[Look, ...]:
    """Reads the lengths of looks such as `1,3`, in epochs.

    Args:
        text: the lengths.
        epochs: of the full run; infinite where they are not known yet.
        seed: of the study.

    Raises:
        InputError: they are no two lengths that rise and are shorter than a full run.
    """
    parts = text.split(",")
    lengths = [int(part) for part in parts if part.strip().isdecimal()]
    if len(lengths) != len(parts) or len(lengths) != 2 or not 0 < lengths[0] <= lengths[1]:
        rule = "`looks` must be two lengths in epochs, the shorter one first, such as 1,3"
        raise InputError(f"{rule}, but got {text!r}.")
    if lengths[1] >= epochs:
        rule = f"a look must be shorter than the full run of {epochs} epochs"
        raise InputError(f"{rule}, but got {text!r}.")
    return looks_of(*lengths, seed=seed)


def looked_at(state: StudyState, level: int, num_recipes: int) -> list[Trial]:
    """The trials that have look number `level`, from 0: all, or the best by the looks before.

    It is known once all of those looks have ended.
    """
    trials = trials_of(state)
    if level == 0:
        return trials
    ranked = best_first(
        (trial for trial in looked_at(state, level - 1, num_recipes) if trial.sound_at(level)),
        level=level,
    )
    return ranked[: math.ceil(num_recipes / state.config.looks[level].one_in)]


def look_at(config: StudyConfig, number: int, recipe: Recipe, level: int) -> Run:
    """Look number `level` of a trial; the full run of a study without looks."""
    if not config.looks:
        return Run(
            id=f"trial-{number:04d}", kind="full", trial=number, recipe=recipe,
            recipe_epochs=config.epochs, horizon_epochs=config.epochs, stop_epochs=config.epochs,
            seed=config.seed,
        )  # fmt: skip
    look = config.looks[level]
    return Run(
        id=f"trial-{number:04d}-look-{level + 1}", kind="look", trial=number, recipe=recipe,
        recipe_epochs=config.epochs, horizon_epochs=look.epochs, stop_epochs=look.epochs,
        seed=look.seed,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LookSummary:
    """What one look of a study was and what it was worth."""

    look: Look
    num_trials: int
    tau: float
    """Kendall's tau between this look's scores and the next one's, over the trials that had both;
    nan with fewer than three."""
    agreement: float
    """Kendall's tau between what looks are ranked by and the objective; 1 where they are the same,
    nan with fewer than three trials."""
    best_lr: BestLR | None
    """Where the best peak LR lies, of the optimizer of the best trial; `None` where the trials do
    not tell."""


def summaries(state: StudyState) -> list[LookSummary]:
    """The looks of a study in their order; empty where it has none."""
    trials = trials_of(state)
    return [
        LookSummary(
            look=look,
            num_trials=sum(trial.level > level for trial in trials),
            tau=_tau([t.scores[level : level + 2] for t in trials if t.level > level + 1]),
            agreement=_tau(list(_both_scores(state, trials, level))),
            best_lr=_best_lr(trials, level),
        )
        for level, look in enumerate(state.config.looks)
    ]


def _best_lr(trials: Sequence[Trial], level: int) -> BestLR | None:
    ended = [trial for trial in trials if trial.level > level]
    if not ended:
        return None
    optimizer = max(ended, key=lambda trial: trial.scores[level]).recipe.optimizer
    alike = [trial for trial in ended if trial.recipe.optimizer == optimizer]
    return best_lr(
        [trial.recipe.peak_lr for trial in alike], [trial.scores[level] for trial in alike]
    )


def full_lr(found: Sequence[LookSummary], epochs: int) -> BestLR | None:
    """The best peak LR of a full run, where the looks show how it moves with the length."""
    known = {s.look.epochs: s.best_lr for s in reversed(found) if s.best_lr}
    if len(known) < 2:
        return None
    (short_epochs, short), *_, (long_epochs, long) = sorted(known.items())
    return extrapolated(short, short_epochs, long, long_epochs, epochs=epochs)


def _both_scores(
    state: StudyState, trials: Sequence[Trial], level: int
) -> Iterator[tuple[float, float]]:
    """What a look was ranked by, and the objective, of the trials whose look was completed."""
    for trial in trials:
        if trial.level > level and trial.runs[level].state == "completed":
            record = trial.runs[level]
            yield score_of(state, record), state.config.objective.score(record.metrics)


def _tau(pairs: Sequence[Sequence[float]]) -> float:
    if len(pairs) < 3:
        return math.nan
    return float(stats.kendalltau(*zip(*pairs, strict=True)).statistic)
