"""The command `compare`, which trains given recipes as a study without a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrtune.app.arguments import (
    check_study,
    check_target,
    engine_of,
    objective_of,
    open_task,
    with_settings,
)
from lrtune.app.places import Places
from lrtune.app.results import recipe_of
from lrtune.app.studies import Request, check_facts, fitted_rungs, train_study
from lrtune.core.engines import EngineName, EngineOptions, Local
from lrtune.core.errors import InputError, Problems
from lrtune.core.objective import Objective
from lrtune.core.recipe import NamedRecipe, length_problems
from lrtune.core.study import Budget, StudyConfig
from lrtune.decide.abilities import shares_seeds
from lrtune.decide.recommend import recommend
from lrtune.reporting.result import SearchResult
from lrtune.schedules.compress import compress
from lrtune.store.recipes import read_recipe, recipe_names
from lrtune.training.task import Task, TaskSource, describe_source
from lrtune.tuning.engine import Emit
from lrtune.tuning.engine import Engine as TrainingEngine


def compare(
    task: TaskSource | str | Path,
    recipes: Sequence[str | Path | NamedRecipe] = (),
    *,
    include: Sequence[str] = (),
    epochs: int | None = None,
    study: str | None = None,
    seed: int = 0,
    engine: EngineName | EngineOptions = "local",
    metric: str | Objective | None = None,
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
    """Trains recipes side by side, each with the same seeds.

    A call with the same arguments goes on with the same comparison.

    `recipes` are names of recipes that come with lrtune (by default all of them), TOML files, or
    recipes with a name. The others are compared with the first. The recommended recipes of the
    studies in `include` also take part: `"mine"` includes the best recipe of the study `mine`,
    `"mine:14"` that of its trial 14, and `"mine:simplest"` the simplest that may well be the best.
    Each recipe is trained for `epochs`; a recipe that says for how many epochs it is meant is
    scaled to them. It has one run with each of the `num_seeds` seeds that follow `seed`. Recipes
    that these runs do not tell from the best have `max_seeds` runs, by default no more than
    `num_seeds`. The other arguments are those of `search`.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    problems = Problems()
    options: EngineOptions = Local()
    with problems.gather():
        options = engine_of(engine)
    check_study(
        problems, epochs=epochs, num_seeds=num_seeds, max_seeds=max_seeds, seed=seed, study=study
    )
    loaded: Task | None = None
    with problems.gather():
        source, loaded = open_task(task, metric)
    check_target(problems, target, objective_of(task, metric, loaded))
    if loaded is None or problems:
        raise InputError(problems)

    epochs = epochs or loaded.epochs
    max_seeds = num_seeds if max_seeds is None else max_seeds
    compared: list[NamedRecipe] = []
    for recipe in recipes or recipe_names():
        with problems.gather():
            named = recipe if isinstance(recipe, NamedRecipe) else read_recipe(recipe, epochs)
            compared.append(named)
            problems += [f"{named.name}: {p}" for p in length_problems(named.recipe, epochs)]
    for name in include:
        with problems.gather():
            compared.append(_included(name, epochs, places))
    if len(names := [named.name for named in compared]) > len(set(names)):
        problems.append(f"recipes must have different names, but got {', '.join(names)}.")
    if len(compared) < 2:
        problems.append(
            f"a comparison needs two recipes at least, but got {', '.join(names) or 'none'}."
        )
    with problems.gather():
        loaded = with_settings(loaded, settings, options)
    problems.raise_any()
    request = Request(
        options=options,
        task=loaded,
        source=source,
        places=places,
        quiet=quiet,
        on_event=on_event,
    )

    def configure(engine: TrainingEngine) -> StudyConfig:
        facts = engine.facts
        check_facts(facts, {named.name: named.recipe for named in compared}, loaded.decides)
        config = StudyConfig(
            name=study or "",
            task=describe_source(source),
            space_name="",
            space_toml="",
            epochs=epochs,
            steps_per_epoch=facts.steps_per_epoch,
            objective=facts.objective,
            paired=shares_seeds(facts.abilities),
            num_validation=facts.num_validation,
            groups=facts.groups,
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
            environment=engine.environment(compared[0].recipe),
        )
        fitted_rungs(config, facts)  # every recipe must have a schedule
        return config

    return train_study(configure, request)


def _included(words: str, epochs: int, places: Places) -> NamedRecipe:
    """Returns the recommended recipe of a study, or for `STUDY:14` that of its trial 14.

    A recipe for runs of another length is scaled to `epochs`.
    """
    name, _, which = words.partition(":")
    state = places.existing().study(name).state()
    recommendation = recommend(state)
    if recommendation is None:
        raise InputError(f"study {name!r} has no recipe to include: no run of it has finished.")
    chosen = recipe_of(state, recommendation, which or "best")
    recipe = chosen.recipe
    if state.config.epochs != epochs:
        recipe = compress(recipe, state.config.epochs, epochs)
    return NamedRecipe(name=f"{chosen.name} of {name}", recipe=recipe)
