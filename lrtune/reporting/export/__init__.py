"""A recipe in the words of the framework that it will train in: code, a command line or data, to paste."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement
from lrtune.core.study import TrainSettings
from lrtune.reporting.export import json, keras, lightning, timm, toml, torch, transformers
from lrtune.reporting.export.parts import found_with
from lrtune.reporting.export.result import Export, Target
from lrtune.schedules import Schedule, build_schedule

__all__ = ["Export", "Target", "export"]


def export(
    recipe: Recipe, *, epochs: int, steps_per_epoch: int, settings: TrainSettings, to: Target,
    measurements: Sequence[Measurement] = (),
) -> Export:  # fmt: skip
    """`recipe` for the framework `to`, with the LR of `build_schedule` at each optimizer step, or the closest to it.

    Args:
        recipe: optimizer and schedule.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps.
        settings: how the recipe was trained; its LR holds for these.
        to: the framework.
        measurements: of a run of the recipe, from its first epoch on: what a plateau did, for JSON.

    Raises:
        InputError: the framework has no equal, or see `build_schedule`.
    """
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    made = _export(schedule, settings, to, measurements)
    return replace(made, note=f"{made.note} {found_with(settings)}")


def _export(
    schedule: Schedule, settings: TrainSettings, to: Target, measurements: Sequence[Measurement]
) -> Export:
    match to:
        case "torch":
            return torch.export(schedule, settings)
        case "lightning":
            return lightning.export(schedule)
        case "timm":
            return timm.export(schedule, settings)
        case "transformers":
            return transformers.export(schedule, settings)
        case "keras":
            return keras.export(schedule)
        case "json":
            return json.export(schedule, settings, measurements)
        case "toml":
            return toml.export(schedule)
        case _:
            assert_never(to)
