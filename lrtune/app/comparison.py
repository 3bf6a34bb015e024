"""`compare`: recipes side by side, as a study that has them instead of a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrtune.app.arguments import check_study, engine_of, task_source, with_settings
from lrtune.app.places import Places
from lrtune.app.studies import recipe_of, train_study
from lrtune.core.engines import Engine, EngineName, Local
from lrtune.core.errors import InputError, Problems
from lrtune.core.recipe import NamedRecipe, length_problems
from lrtune.core.study import Budget, StudyConfig
from lrtune.decide.recommend import recommend
from lrtune.reporting.result import SearchResult
from lrtune.schedules.compress import compress
from lrtune.store.recipes import read_recipe, recipe_names
from lrtune.training.task import Task, TaskSource, describe_source, load_task
from lrtune.tuning.engine import Emit


def compare(
    task: TaskSource | str | Path,
    recipes: Sequence[str | Path | NamedRecipe] = (),
    *,
    include: Sequence[str] = (),
    epochs: int | None = None,
    study: str | None = None,
    seed: int = 0,
    engine: EngineName | Engine = "local",
    target: float | None = None,
    num_seeds: int = 3,
    max_seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    home: str | Path = ".lrtune",
    out: str | Path = "reports",
    storage: str = "",
    quiet: bool = False,
    on_event: Emit | None = None,
    command: str = "",
) -> SearchResult:
    """Trains recipes side by side, each with the same seeds, or goes on with the comparison that was begun so.

    `recipes` are names of recipes that come with lrtune (by default all of them), TOML files, or
    recipes with a name; the first is what the others are compared with. The recommended recipes of
    the studies in `include` take part, too; of `"mine:14"` it is that of trial 14, and of
    `"mine:simplest"` the simplest that may well be the best. Each is trained for `epochs`, to which
    the lengths in a recipe that says what it is meant for are scaled, once with each of the
    `num_seeds` seeds that follow `seed`; those that these do not tell from the best have
    `max_seeds` runs, by default no more. The other arguments are those of `search`.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    problems = Problems()
    chosen: Engine = Local()
    with problems.gather():
        chosen = engine_of(engine)
    check_study(
        problems,
        epochs=epochs,
        target=target,
        num_seeds=num_seeds,
        max_seeds=max_seeds,
        seed=seed,
        study=study,
    )
    loaded: Task | None = None
    with problems.gather():
        source = task_source(task)
        loaded = load_task(source)
    if loaded is None or problems:
        raise InputError(problems)

    epochs = epochs or loaded.epochs
    max_seeds = num_seeds if max_seeds is None else max_seeds
    compared: list[NamedRecipe] = []
    for one in recipes or recipe_names():
        with problems.gather():
            compared.append(one if isinstance(one, NamedRecipe) else read_recipe(one, epochs))
            last = compared[-1]
            problems += [
                f"{last.name}: {problem}" for problem in length_problems(last.recipe, epochs)
            ]
    for name in include:
        with problems.gather():
            compared.append(_included(name, epochs, places))
    if len(names := [one.name for one in compared]) > len(set(names)):
        problems.append(f"recipes must have different names, but got {', '.join(names)}.")
    if len(compared) < 2:
        problems.append(
            f"a comparison needs two recipes at least, but got {', '.join(names) or 'none'}."
        )
    with problems.gather():
        loaded = with_settings(loaded, settings, chosen)
    problems.raise_any()

    draft = StudyConfig(
        name=study or "",
        task=describe_source(source),
        space_name="",
        space_toml="",
        epochs=epochs,
        steps_per_epoch=0,
        num_validation=0,
        num_classes=loaded.num_classes,
        settings=loaded.settings,
        seed=seed,
        budget=Budget(len(compared) * max_seeds, "runs"),
        pruner="none",
        baseline=compared[0].recipe,
        target=target,
        num_seeds=num_seeds,
        max_seeds=max_seeds,
        num_confirmed=len(compared) - 1,
        recipes=tuple(compared),
        command=command or f"lrtune.compare(..., {names})",
    )
    return train_study(draft, chosen, loaded, source, places, quiet=quiet, on_event=on_event)


def _included(words: str, epochs: int, places: Places) -> NamedRecipe:
    """The recommended recipe of `STUDY`, or another of `STUDY:14`, its lengths in proportion to other runs."""
    name, _, which = words.partition(":")
    state = places.existing().study(name).state()
    found = recommend(state)
    if found is None:
        raise InputError(f"study {name!r} has no recipe to include: no run of it has finished.")
    chosen = recipe_of(state, found, which or "best")
    recipe = chosen.recipe
    if state.config.epochs != epochs:
        recipe = compress(recipe, state.config.epochs, epochs)
    return NamedRecipe(name=f"{chosen.name} of {name}", recipe=recipe)
