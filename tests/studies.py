"""Made-up studies, in a line each: what the rules are functions of."""

import math

from lrtune.core.recipe import Cosine, Recipe, Step
from lrtune.core.study import StudyConfig, StudyState
from lrtune.core.trial import Measurement, Run, RunRecord

BASELINE = Recipe(peak_lr=0.1, decay=Step(every_epochs=2))


def config_of(**changes):
    """Four epochs a run, ten classes, 1,000 validation images."""
    values = {
        "name": "made-up",
        "task": {"data": "digits", "model": "small-cnn"},
        "space_name": "default",
        "space_toml": "",
        "epochs": 4,
        "steps_per_epoch": 10,
        "num_validation": 1000,
        "num_classes": 10,
        "baseline": BASELINE,
    }
    return StudyConfig(**values | changes)


def measurement(epoch, top1, *, loss=1.0, seconds=1.0, ended_at=None):
    """By default a run that began at 0 and trains an epoch a second."""
    return Measurement(
        epoch=epoch,
        step=10 * epoch,
        lr_first=0.1,
        lr_last=0.1,
        train_loss=loss,
        val_loss=loss,
        top1=top1,
        seconds=seconds,
        images_per_s=1000.0,
        ended_at=epoch * seconds if ended_at is None else ended_at,
    )


def record(top1s, kind="search", *, trial=0, seed=0, recipe=None, state="completed", horizon_epochs=4, **others):
    """A run with these Top-1s, one an epoch; a diverged one's last loss is NaN."""
    name = "baseline" if kind == "baseline" else f"trial-{trial:04d}"
    suffix = "" if kind == "search" else f"-{seed - 1}" if kind == "baseline" else f"-confirm-{seed - 1}"
    losses = [1.0] * (len(top1s) - 1) + [math.nan if state == "diverged" else 1.0]
    return RunRecord(
        run=Run(
            id=name + suffix,
            kind=kind,
            trial=-1 if kind == "baseline" else trial,
            recipe=recipe or (BASELINE if kind == "baseline" else Recipe(peak_lr=0.01 * (trial + 1), decay=Cosine())),
            horizon_epochs=horizon_epochs,
            seed=seed,
        ),
        state=state,
        measurements=tuple(
            measurement(epoch, top1, loss=loss)
            for epoch, (top1, loss) in enumerate(zip(top1s, losses, strict=False), 1)
        ),
        **others,
    )


def state_of(*records, **changes):
    """A study with these records, and `config_of(**changes)`."""
    return StudyState(config=config_of(**changes), records=records)
