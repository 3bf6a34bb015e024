"""Recipes of every kind for a short run, and the LRs that their steps must have."""

import math

from lrtune.core.decays import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    StepDecay,
)
from lrtune.core.recipe import ParameterGroup, Recipe
from lrtune.core.study import TrainSettings
from lrtune.reporting.export import Export, Target, export
from lrtune.schedules import build_schedule

EPOCHS, STEPS_PER_EPOCH, PEAK_LR = 8, 5, 0.03
"""Of the run that the recipes were found in; the loaders below give other steps an epoch."""
NUM_EXAMPLES, BATCH_SIZE = 13, 2
DECAYS = [
    Constant(),
    StepDecay(every_epochs=3, factor=0.3),
    StepDecay(every_epochs=0.7),
    MultiStep(milestones_epochs=(1, 4, 6.5)),
    Cosine(),
    Linear(),
    Polynomial(power=1.7),
    Exponential(end_frac=0.02),
    WSD(cooldown_frac=0.3),
    WSD(cooldown_frac=1.0),
    HoldPower(hold_frac=0.4, power=1.5),
    HoldPower(hold_frac=0.0),
]
PLATEAUS = [
    Plateau(patience_epochs=0, factor=0.5),
    Plateau(patience_epochs=1, factor=0.2, cooldown_epochs=1, threshold=0.05, threshold_mode="abs"),
    Plateau(monitor="top1", patience_epochs=1, factor=0.1),
]
SHAPES = [(0, 0.0), (1.5, 0.1)]
"""Warmup, in epochs, and floor."""
LOADERS = [(keeps, accumulate) for keeps in (True, False) for accumulate in (1, 3)]
"""Whether the loader keeps its last batch, and its batches for one optimizer step."""
GROUPS = (ParameterGroup(name="backbone", lr_scale=0.25), ParameterGroup(name="head"))
# Better, worse, worse, better by less than the thresholds, worse to the end.
METRICS = {
    "val_loss": (1.0, 1.1, 1.2, 0.99999, 1.0, 1.3, 1.2, 1.4),
    "top1": (50.0, 49.0, 48.0, 50.001, 50.0, 47.0, 48.0, 46.0),
}

PLAIN = TrainSettings(batch_size=BATCH_SIZE)
ACCUMULATED = TrainSettings(batch_size=3 * BATCH_SIZE, accumulate=3)
UNUSUAL = TrainSettings(batch_size=6, accumulate=3, clip_norm=0.5, label_smoothing=0.1)


def recipe_of(decay, shape=(0, 0.0), optimizer="sgd", **values):
    """A recipe with a warmup and a floor of `SHAPES`."""
    warmup_epochs, final_frac = shape
    return Recipe(
        optimizer=optimizer,
        peak_lr=PEAK_LR,
        decay=decay,
        warmup_epochs=warmup_epochs,
        final_frac=final_frac,
        **values,
    )


def settings_of(accumulate: int) -> TrainSettings:
    return PLAIN if accumulate == 1 else ACCUMULATED


def exported(recipe: Recipe, to: Target, settings: TrainSettings = PLAIN, groups=()) -> Export:
    return export(
        recipe,
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        settings=settings,
        to=to,
        groups=groups,
    )


def filled(code: str, model) -> str:
    """The code with the parameters of `model` in place of the `...` of each group."""
    for name, _ in model.named_parameters():
        code = code.replace('"params": ...', f'"params": [PARAMETERS["{name}"]]', 1)
    return code


def steps_of(keeps: bool, accumulate: int) -> int:
    """Real optimizer steps in an epoch: the last one may have fewer batches than the others."""
    num_batches = NUM_EXAMPLES / BATCH_SIZE
    num_batches = math.ceil(num_batches) if keeps else math.floor(num_batches)
    return math.ceil(num_batches / accumulate)


def metrics_of(recipe: Recipe) -> tuple[float, ...]:
    """What an epoch of the tests ends with, of the metric that a plateau monitors."""
    return METRICS[getattr(recipe.decay, "monitor", "val_loss")]


def lrs_planned(recipe: Recipe, steps_per_epoch: int = STEPS_PER_EPOCH) -> list[float]:
    """The LR of each optimizer step, where the epochs end with `METRICS`."""
    schedule = build_schedule(recipe, epochs=EPOCHS, steps_per_epoch=steps_per_epoch)
    planned = []
    for epoch in range(EPOCHS):
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        planned += [recipe.peak_lr * schedule(step) for step in steps]
        schedule = schedule.observe({name: values[epoch] for name, values in METRICS.items()})
    return planned


def deviation(used: list[float], planned: list[float]) -> float:
    """`max |used - planned|` as a fraction of the peak LR."""
    assert len(used) == len(planned)
    return max(abs(a - b) for a, b in zip(used, planned, strict=True)) / PEAK_LR


def group_deviation(used: list[tuple[float, ...]], planned: list[float]) -> float:
    """The largest deviation of a group of `GROUPS` from its share of the planned LR."""
    return max(
        deviation([lrs[i] for lrs in used], [group.lr_scale * lr for lr in planned])
        for i, group in enumerate(GROUPS)
    )
