"""The recipe files on disk: those that come with lrtune, and the user's own.

description = "..."
epochs = 90                  # that the lengths below are meant for; without it, those of the run
optimizer = "sgd"
peak_lr = 0.1
warmup_epochs = 5

[decay]
name = "step"
every_epochs = 30

[group_scales]               # of named parameter groups
backbone = 0.1

[command]                    # what stands in the place of {batch_size} in a training command
batch_size = 64
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from lrtune.core.documents import parse_document
from lrtune.core.errors import InputError, Problems
from lrtune.core.printing import printable
from lrtune.core.recipe import NamedRecipe, Recipe, length_problems
from lrtune.schedules.compress import compress
from lrtune.store.documents import find_document, read_document

ORDER = (
    "sgd-step", "adamw", "adamw-cosine", "lamb-cosine", "sgd-linear", "sgd-wsd",
    "schedule-free-sgd", "schedule-free-adamw", "prodigy",
)  # fmt: skip
"""In which they are listed and compared."""
_ANY_LENGTH = 10**6
_FOLDER = Path(__file__).parent.parent / "recipes"


def read_recipe(recipe: str | Path, epochs: int, *, own: Recipe | None = None) -> NamedRecipe:
    """A recipe that comes with lrtune, or a file's, its lengths in proportion to a run.

    Args:
        recipe: name or path.
        epochs: of the run.
        own: a training command as it is, whose optimizer and weight decay a recipe has that leaves
            them out.

    Raises:
        InputError: there is neither, or it is no recipe; every rule that it breaks, with file and
            key.
    """
    name, values = str(recipe), _read(recipe)
    values.pop("description", None)
    if own is not None:
        values = {"optimizer": own.optimizer, "weight_decay": own.weight_decay} | values
    problems = Problems()
    meant_for = values.pop("epochs", epochs)
    if type(meant_for) is not int or meant_for < 1:
        problems.append(f"`epochs` must be a whole number from 1, but got {meant_for!r}.")
    read = Recipe()
    with problems.gather():
        read = Recipe.from_dict(values)
    if not problems:
        problems += length_problems(read, meant_for)
    if problems:
        raise InputError([f"{name}: {problem}" for problem in problems])
    return NamedRecipe(
        name=printable(Path(name).stem),
        recipe=compress(read, meant_for, epochs) if meant_for != epochs else read,
    )  # fmt: skip


def known_of(recipe: NamedRecipe | Recipe | str | Path) -> Recipe | None:
    """A recipe for a run whose length is not known yet; `None` where it cannot be read."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, NamedRecipe):
        return recipe.recipe
    with suppress(InputError):  # it is told where the recipe is used
        return read_recipe(recipe, _ANY_LENGTH).recipe
    return None


def recipe_names() -> list[str]:
    """The recipes that come with lrtune: the classic schedules first, then those that need none."""
    return list(ORDER)


def describe_recipe(name: str) -> str:
    """What a recipe that comes with lrtune says of itself."""
    return str(_read(name)["description"])


def _read(recipe: str | Path) -> dict[str, Any]:
    """The values of a recipe's file."""
    path = find_document(recipe, _FOLDER)
    if path is None:
        names = ", ".join(recipe_names())
        raise InputError(
            f"a recipe must be a TOML file or one of {names}, but got {str(recipe)!r}."
        )
    return parse_document(read_document(path), str(recipe))
