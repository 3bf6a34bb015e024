"""A recipe for a shorter run: its whole schedule in fewer epochs."""

from dataclasses import replace

from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.schedules.build import Schedule, build_schedule, fit_schedule


def schedule_of(run: Run, steps_per_epoch: int) -> Schedule:
    """The schedule of a run: its recipe's, compressed where the recipe was meant for a longer one.

    Raises:
        InputError: see `build_schedule`; a recipe that goes with its own length can be compressed
            to any.
    """
    if run.horizon_epochs == run.recipe_epochs:
        return build_schedule(
            run.recipe, epochs=run.horizon_epochs, steps_per_epoch=steps_per_epoch
        )
    recipe = compress(run.recipe, run.recipe_epochs, run.horizon_epochs)
    return fit_schedule(recipe, epochs=run.horizon_epochs, steps_per_epoch=steps_per_epoch)


def compress(recipe: Recipe, epochs: int, to_epochs: int) -> Recipe:
    """Returns a recipe for `to_epochs` epochs: lengths in proportion, all else unchanged.

    The multiplier at share `x` of the compressed run is that at share `x` of the full one, to the
    nearest step. A plateau decay waits whole epochs, so for it that cannot hold exactly.

    Example:
        >>> compress(Recipe(warmup_epochs=3, decay=StepDecay(every_epochs=9)), 27, 9)
        Recipe(..., warmup_epochs=1.0, decay=StepDecay(every_epochs=3.0))
    """
    scale = to_epochs / epochs
    return replace(
        recipe,
        warmup_epochs=recipe.warmup_epochs * scale,
        decay=recipe.decay.scaled(scale),
    )
