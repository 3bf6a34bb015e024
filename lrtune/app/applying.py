"""Applies a recipe in the user's own training loop."""

from pathlib import Path
from typing import Any

from lrtune.app.commands import load
from lrtune.core.commands import Database
from lrtune.core.errors import InputError, quoted
from lrtune.core.recipe import Recipe
from lrtune.reporting.result import SearchResult
from lrtune.schedules.compress import compress
from lrtune.stepping.applied import Applied


def apply(
    optimizer: Any,
    recipe_or_study: Recipe | SearchResult | str,
    *,
    steps_per_epoch: int,
    epochs: int,
    home: str | Path = Database.home,
    storage: str = Database.storage,
) -> Applied:
    """Sets the LR of each real optimizer step of any loop to that of a recipe.

    Torch's step hooks write the LR just before a step and put back what the program had just after
    it. So the loop may keep its own scheduler, which has no effect. Parameter groups keep the ratio
    of their LRs; a group's `lr_scale` multiplies it, and a scale that the recipe has for the
    group's `name` replaces it. A step that a gradient scaler skips is not counted. With a fused
    optimizer on a GPU only the GPU knows that, so that the count may be one too high for a step or
    two afterwards.

    Args:
        optimizer: torch's, or the wrapper of accelerate, Fabric or Lightning around one.
        recipe_or_study: a recipe, what a search returned, or the name of a study. Of a study, the
            recommended recipe is used, its lengths scaled to `epochs`.
        steps_per_epoch: optimizer steps in an epoch; micro-batches of an accumulation do not count.
        epochs: length of the run. A step beyond it has the LR of the last one.
        home: folder of the study's database.
        storage: SQLAlchemy URL of another database.

    Returns:
        A handle. For a plateau decay call its `observe(metric)` once an epoch. It has `remove()`,
        and `state_dict()` and `load_state_dict()` for checkpoints.

    Raises:
        InputError: an argument breaks a rule, or there is no such study.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> lrtune.apply(optimizer, lrtune.Recipe(peak_lr=0.3), steps_per_epoch=100, epochs=30)
    """
    if isinstance(recipe_or_study, Recipe):
        return Applied(optimizer, recipe_or_study, steps_per_epoch=steps_per_epoch, epochs=epochs)
    if not isinstance(recipe_or_study, SearchResult | str):
        raise InputError(
            "`recipe_or_study` must be a recipe, what a search returned, or the name of a study, "
            f"but got {quoted(recipe_or_study)}."
        )
    if isinstance(recipe_or_study, str):
        recipe_or_study = load(recipe_or_study, home=home, storage=storage)
    config, recipe = recipe_or_study.state.config, recipe_or_study.best.recipe
    if isinstance(epochs, int) and epochs >= 1 and epochs != config.epochs:
        recipe = compress(recipe, config.epochs, epochs)
    return Applied(
        optimizer,
        recipe,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        groups=config.groups,
    )
