"""Recipes of every kind for a short run, and the LRs that their steps must have."""

from lrtune.core.recipe import (
    WSD,
    Constant,
    Cosine,
    Exponential,
    HoldPower,
    Linear,
    MultiStep,
    Plateau,
    Polynomial,
    Recipe,
    StepDecay,
)
from lrtune.core.study import TrainSettings
from lrtune.reporting.export import Export, Target, export
from lrtune.schedules import build_schedule

EPOCHS, STEPS_PER_EPOCH, PEAK_LR = 8, 5, 0.03
DECAYS = [
    Constant(),
    StepDecay(every_epochs=3, factor=0.3),
    StepDecay(every_epochs=0.7),
    MultiStep(milestones_epochs=(1, 4, 6.5)),
    MultiStep(milestones_epochs=(3, 6)),
    Cosine(),
    Linear(),
    Polynomial(power=1.7),
    Exponential(end_frac=0.02),
    WSD(cooldown_frac=0.3),
    WSD(cooldown_frac=0.25),
    WSD(cooldown_frac=1.0),
    HoldPower(hold_frac=0.4, power=1.5),
    HoldPower(hold_frac=0.0),
    HoldPower(hold_frac=0.75),
]
PLATEAUS = [
    Plateau(patience_epochs=0, factor=0.5),
    Plateau(patience_epochs=1, factor=0.2, cooldown_epochs=1, threshold=0.05, threshold_mode="abs"),
    Plateau(monitor="top1", patience_epochs=1, factor=0.1),
]
WARMUPS_EPOCHS = [0, 1, 1.5]
FINAL_FRACS = [0.0, 0.1]
# Better, worse, worse, better by less than the thresholds, worse to the end.
VAL_LOSSES = (1.0, 1.1, 1.2, 0.99999, 1.0, 1.3, 1.2, 1.4)
TOP1S = (50.0, 49.0, 48.0, 50.001, 50.0, 47.0, 48.0, 46.0)


PLAIN = TrainSettings(batch_size=1)
UNUSUAL = TrainSettings(batch_size=6, accumulate=3, clip_norm=0.5, label_smoothing=0.1)


def exported(recipe: Recipe, to: Target, settings: TrainSettings = PLAIN) -> Export:
    return export(recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH, settings=settings, to=to)


def lrs_planned(recipe: Recipe) -> list[float]:
    """The LR of each optimizer step, where the epochs end with `VAL_LOSSES` and `TOP1S`."""
    schedule = build_schedule(recipe, epochs=EPOCHS, steps_per_epoch=STEPS_PER_EPOCH)
    planned = []
    for epoch in range(EPOCHS):
        planned += [
            recipe.peak_lr * schedule(epoch * STEPS_PER_EPOCH + i) for i in range(STEPS_PER_EPOCH)
        ]
        schedule = schedule.observe(val_loss=VAL_LOSSES[epoch], top1=TOP1S[epoch])
    return planned


def deviation(used: list[float], recipe: Recipe) -> float:
    """`max |used - planned|` as a fraction of the peak LR."""
    planned = lrs_planned(recipe)
    assert len(used) == len(planned)
    return max(abs(a - b) for a, b in zip(used, planned, strict=True)) / recipe.peak_lr
