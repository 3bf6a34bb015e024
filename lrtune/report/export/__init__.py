"""A recipe in the words of the framework that it will train in: code, a command line or JSON, to paste."""

from collections.abc import Sequence
from typing import assert_never

from lrtune.core.recipe import Recipe
from lrtune.core.trial import Measurement
from lrtune.report.export import json, keras, lightning, timm, torch, transformers
from lrtune.report.export.result import Export, Target
from lrtune.schedules import build_schedule

__all__ = ["Export", "Target", "export"]


def export(
    recipe: Recipe, *, epochs: int, steps_per_epoch: int, to: Target, measurements: Sequence[Measurement] = ()
) -> Export:
    """`recipe` for the framework `to`, with the LR of `build_schedule` at each optimizer step, or the closest to it.

    Args:
        recipe: optimizer and schedule.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps.
        to: the framework.
        measurements: of a run of the recipe, from its first epoch on: what a plateau did, for JSON.

    Raises:
        InputError: the framework has no equal, or see `build_schedule`.
    """
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    match to:
        case "torch":
            return torch.export(schedule)
        case "lightning":
            return lightning.export(schedule)
        case "timm":
            return timm.export(schedule)
        case "transformers":
            return transformers.export(schedule)
        case "keras":
            return keras.export(schedule)
        case "json":
            return json.export(schedule, measurements)
        case _:
            assert_never(to)
