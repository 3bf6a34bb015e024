"""A grid of peak LRs, and the cheapest one of the recipes that are near each other.

Peak LRs are taken a twelfth of a decade apart: neighbours differ by 21 %. On that grid, and with
warmups of whole epochs, recipes meet: they share their warmup and the trunk before their decays
begin, which is trained once.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import replace

from lrtune.core.decays import Constant
from lrtune.core.recipe import Recipe
from lrtune.core.space import Range, Space
from lrtune.core.study import StudyState

LRS_PER_DECADE = 12
NEAR_LRS = 3
"""Steps of the grid within which peak LRs are taken to be of equal promise."""


def nearest_on_grid(lr: float) -> float:
    """The LR of the grid that is nearest to `lr`: 0.1, 0.121, 0.147, ..., 0.825, 1."""
    return _grid_lr(round(LRS_PER_DECADE * math.log10(lr)))


def on_grid(recipe: Recipe, space: Space) -> Recipe:
    """`recipe` with its peak LR moved to the nearest point of the grid in the space."""
    bounds = space.parameter("peak_lr", recipe.optimizer)
    peak_lr = nearest_on_grid(recipe.peak_lr)
    if (
        not isinstance(bounds, Range)
        or bounds.step is not None
        or not bounds.low <= peak_lr <= bounds.high
    ):
        return recipe
    return replace(recipe, peak_lr=peak_lr)


def cheapest_nearby(
    suggested: Sequence[Recipe], state: StudyState, space: Space, *, exclude: Container[Recipe]
) -> Recipe:
    """Of the recipes suggested and their neighbours on the grid, the one that costs least.

    It shares most with what is already trained. The first wins a tie, and a suggestion comes before
    its neighbours; a recipe of `exclude` is returned only if there is no other.
    """
    trained: dict[Recipe, float] = {}
    for record in state.records:
        if record.run.is_of_search and record.run.horizon_epochs == state.config.epochs:
            head, trunk = (
                _head(record.run.recipe),
                trunk_epochs(record.run.recipe, state.config.epochs),
            )
            trained[head] = max(trained.get(head, 0.0), min(trunk, record.epochs))

    def saved(candidate: Recipe) -> float:
        return math.floor(
            min(trained.get(_head(candidate), 0.0), trunk_epochs(candidate, state.config.epochs))
        )

    near = [
        *suggested,
        *(neighbour for recipe in suggested for neighbour in _nearby(recipe, space)),
    ]
    return max(
        [recipe for recipe in near if recipe not in exclude] or near, key=saved
    )  # the first of equals


def trunk_epochs(recipe: Recipe, epochs: int) -> float:
    """Epochs before the decay begins to fall, which recipes of one peak LR and warmup share."""
    return recipe.decay.trunk_epochs(recipe.span(epochs))


def _head(recipe: Recipe) -> Recipe:
    """What a recipe is before its decay begins."""
    return replace(recipe, decay=Constant(), final_frac=0.0)


def _nearby(recipe: Recipe, space: Space) -> list[Recipe]:
    """`recipe` and its neighbours in peak LR and warmup in the space, nearest first."""
    peak_lrs, warmups = [recipe.peak_lr], [recipe.warmup_epochs]
    lrs = space.parameter("peak_lr", recipe.optimizer)
    index = round(LRS_PER_DECADE * math.log10(recipe.peak_lr))
    if isinstance(lrs, Range) and lrs.step is None and recipe.peak_lr == _grid_lr(index):
        near = (
            _grid_lr(index + sign * steps) for steps in range(1, NEAR_LRS + 1) for sign in (-1, 1)
        )
        peak_lrs += [lr for lr in near if lrs.low <= lr <= lrs.high]
    lengths = space.parameter("warmup_epochs", recipe.optimizer)
    if isinstance(lengths, Range) and lengths.step is not None:
        around = (recipe.warmup_epochs - lengths.step, recipe.warmup_epochs + lengths.step)
        warmups += [warmup for warmup in around if lengths.low <= warmup <= lengths.high]
    return [
        replace(recipe, peak_lr=lr, warmup_epochs=warmup) for lr in peak_lrs for warmup in warmups
    ]


def _grid_lr(index: int) -> float:
    return float(f"{10 ** (index / LRS_PER_DECADE):.3g}")
