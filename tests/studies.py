"""Made-up studies, in a line each: what the rules are functions of."""

import math
from dataclasses import replace

from lrtune.core.decays import Cosine, StepDecay
from lrtune.core.objective import Objective
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement, Run, RunRecord
from lrtune.core.study import StudyConfig, StudyState
from lrtune.decide.looks import looks_of

BASELINE = Recipe(peak_lr=0.1, decay=StepDecay(every_epochs=2))
LOOKS = looks_of(1, 2, seed=0)
"""Of a made-up study: one epoch, two epochs, and two with another seed."""


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
        "objective": Objective(num_counted=1000, guessing=10.0),
        "baseline": BASELINE,
    }
    return StudyConfig(**values | changes)


def full_run(recipe, epochs, **changes):
    """The full run of a trial whose recipe is meant for so many epochs."""
    values = {
        "id": "trial-0000", "kind": "full", "trial": 0, "recipe": recipe, "recipe_epochs": epochs,
        "horizon_epochs": epochs, "stop_epochs": epochs, "seed": 0,
    }  # fmt: skip
    return Run(**values | changes)


def measurement(epoch, top1, *, averaged=None, loss=1.0, seconds=1.0, ended_at=None, **others):
    """An epoch of a run that began at 0 and trains one epoch a second.

    The averaged weights are as good as the raw ones by default; `"none"`: there are none.
    """
    metrics = {"train_loss": loss, "val_loss": loss, "top1": top1}
    if averaged != "none":
        metrics["averaged_val_loss"] = loss
        metrics["averaged_top1"] = top1 if averaged is None else averaged
    return Measurement(
        epoch=epoch,
        step=10 * epoch,
        lr_first=0.1,
        lr_last=0.1,
        metrics=metrics,
        seconds=seconds,
        examples_per_s=1000.0,
        ended_at=epoch * seconds if ended_at is None else ended_at,
        **others,
    )


UNTIMED = {
    "seconds": 0.0,
    "examples_per_s": 0.0,
    "ended_at": 0.0,
    "memory_mib": 0.0,
    "gpu_memory_mib": 0.0,
}


def timeless(measurements, **others):
    """What must be the same each time a run is trained: all but the clock, memory and `others`."""
    return [replace(m, **UNTIMED | others) for m in measurements]


def record(
    top1s, kind="full", *, trial=0, seed=0, recipe=None, state="completed", horizon_epochs=4,
    look=0, looks=LOOKS, averaged=None, **others,
):  # fmt: skip
    """A run with these Top-1s, one an epoch; a diverged one's last loss is NaN.

    Args:
        top1s: by the raw weights.
        kind: `look` is said by `look` alone.
        trial: its number.
        seed: of the run; that of a look is in `looks`.
        recipe: by default one that only this trial has.
        state: how it ended.
        horizon_epochs: of a full run, for which the recipe is meant.
        look: its number, from 1, where the run is no full one.
        looks: of the study.
        averaged: Top-1s of the averaged weights, where they differ; `"none"`: there are none.
        others: fields of the record.
    """
    name = "baseline" if kind == "baseline" else f"trial-{trial:04d}"
    suffix = {
        "full": f"-look-{look}" if look else "",
        "confirm": f"-confirm-{seed - 1}",
        "baseline": f"-{seed - 1}",
    }
    run_epochs = looks[look - 1].epochs if look else horizon_epochs
    losses = [1.0] * (len(top1s) - 1) + [math.nan if state == "diverged" else 1.0]
    averaged = averaged or [None] * len(top1s)
    return RunRecord(
        run=Run(
            id=name + suffix[kind],
            kind="look" if look else kind,
            trial=-1 if kind == "baseline" else trial,
            recipe=recipe
            or (
                BASELINE
                if kind == "baseline"
                else Recipe(peak_lr=0.01 * (trial + 1), decay=Cosine())
            ),
            recipe_epochs=horizon_epochs,
            horizon_epochs=run_epochs,
            stop_epochs=run_epochs,
            seed=looks[look - 1].seed if look else seed,
        ),
        state=state,
        measurements=tuple(
            measurement(epoch, top1, averaged=mean, loss=loss)
            for epoch, (top1, mean, loss) in enumerate(
                zip(top1s, averaged, losses, strict=False), 1
            )
        ),
        **others,
    )


def state_of(*records, **changes):
    """A study with these records, and `config_of(**changes)`."""
    return StudyState(config=config_of(**changes), records=records)
