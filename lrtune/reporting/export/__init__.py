"""A recipe as code for the framework that it will train in, or as data."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from lrtune.core.commands import Target
from lrtune.core.recipe import ParameterGroup, Recipe, scaled_groups
from lrtune.core.run import Measurement
from lrtune.core.study import TrainSettings
from lrtune.reporting.export import json, lightning, timm, toml, torch, transformers
from lrtune.reporting.export.parts import found_with
from lrtune.reporting.export.result import Export
from lrtune.schedules import build_schedule

__all__ = ["Export", "export"]


def export(
    recipe: Recipe,
    *,
    epochs: int,
    steps_per_epoch: int,
    settings: TrainSettings,
    to: Target,
    groups: Sequence[ParameterGroup] = (),
    measurements: Sequence[Measurement] = (),
) -> Export:
    """Returns a recipe as code for the framework `to`, or as data.

    The code takes the number of optimizer steps in an epoch from the loader that it trains with.
    The LR of each of its steps is that of `build_schedule` for that number.

    Args:
        recipe: optimizer and schedule.
        epochs: horizon of the run.
        steps_per_epoch: optimizer steps where the recipe was trained.
        settings: how the recipe was trained; its LR holds for these.
        to: the framework.
        groups: the parameter groups that were trained; empty where there was only one.
        measurements: of a run of the recipe, from its first epoch on. JSON has the LRs that a
            plateau came to in this run.

    Raises:
        InputError: the framework cannot run the recipe, or see `build_schedule`.
    """
    schedule = build_schedule(recipe, epochs=epochs, steps_per_epoch=steps_per_epoch)
    groups = scaled_groups(recipe, groups)
    match to:
        case "torch":
            made = torch.export(schedule, settings, groups)
        case "lightning":
            made = lightning.export(schedule, groups)
        case "timm":
            made = timm.export(schedule, settings, groups)
        case "transformers":
            made = transformers.export(schedule, settings, groups)
        case "json":
            made = json.export(schedule, settings, groups, measurements)
        case "toml":
            made = toml.export(schedule)
        case _:
            assert_never(to)
    return replace(made, note=f"{made.note} {found_with(settings)}")
