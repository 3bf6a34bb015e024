"""`compare`: recipes side by side, as a study that has them instead of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrtune.app.arguments import check_study, default_name, engine_of, task_source, threads_of
from lrtune.app.engines import open_site
from lrtune.app.places import Places
from lrtune.app.studies import run_study
from lrtune.core.engines import Engine, EngineName, Local
from lrtune.core.errors import InputError, Problems
from lrtune.core.recipe import NamedRecipe
from lrtune.core.study import Budget, StudyConfig
from lrtune.decide.recommend import recommend
from lrtune.report.result import SearchResult
from lrtune.schedules import build_schedule
from lrtune.schedules.compress import compress
from lrtune.search.engine import Emit
from lrtune.store.recipes import read_recipe, recipe_names
from lrtune.training.randomness import preserved_random_states
from lrtune.training.task import Task, TaskSource, describe_source, load_task, settings_for


def compare(
    task: TaskSource | str | Path,
    recipes: Sequence[str | Path | NamedRecipe] = (),
    *,
    include: Sequence[str] = (),
    epochs: int | None = None,
    study: str | None = None,
    seed: int = 0,
    engine: EngineName | Engine = "local",
    jobs: int = 1,
    lanes: str | int = "auto",
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

    Args:
        task: see `search`.
        recipes: names of recipes that come with lrtune, TOML files, or recipes with a name; the first is what the
            others are compared with. By default all that come with lrtune.
        include: studies whose recommended recipe takes part, too.
        epochs: of every run; by default the task's. Lengths in a recipe that says what they are meant for are scaled.
        study: its name; by default made from the task and the other arguments.
        seed: of everything random; the runs have the seeds that follow it.
        engine: see `search`.
        jobs: see `search`.
        lanes: see `search`.
        target: Top-1, percent, that convergence is measured against; by default the first recipe's median.
        num_seeds: runs of each recipe.
        max_seeds: runs of those that `num_seeds` do not tell from the best; by default no more than those.
        settings: changes to the task's `TrainSettings`, by field.
        home: folder of database and checkpoints.
        out: folder of the reports.
        storage: SQLAlchemy URL of another database.
        quiet: no display.
        on_event: see `search`.
        command: what to quote as the way to do it again.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    problems = Problems()
    chosen: Engine = Local()
    with problems.gather():
        chosen = engine_of(engine, jobs, lanes)
    max_seeds = num_seeds if max_seeds is None else max_seeds
    check_study(problems, epochs=epochs, target=target, num_seeds=num_seeds, max_seeds=max_seeds, study=study)
    loaded: Task | None = None
    with problems.gather():
        source = task_source(task)
        loaded = load_task(source)
    if loaded is None or problems:
        raise InputError(problems)

    epochs = epochs or loaded.epochs
    compared: list[NamedRecipe] = []
    for one in recipes or recipe_names():
        with problems.gather():
            compared.append(one if isinstance(one, NamedRecipe) else read_recipe(one, epochs))
            build_schedule(compared[-1].recipe, epochs=epochs, steps_per_epoch=1000)
    for name in include:
        with problems.gather():
            compared.append(_winner(name, epochs, places))
    if len(names := [one.name for one in compared]) > len(set(names)):
        problems.append(f"recipes must have different names, but got {', '.join(names)}.")
    if len(compared) < 2:
        problems.append(f"a comparison needs two recipes at least, but got {', '.join(names) or 'none'}.")
    with problems.gather():
        changed = {"threads": threads_of(chosen)} | dict(settings or {})
        loaded = replace(loaded, settings=settings_for(loaded, replace(loaded.settings, **changed)))
    problems.raise_any()

    baseline = compared[0].recipe
    with (
        preserved_random_states(),
        open_site(chosen, loaded, source, loaded.settings, baseline, places) as site,
    ):
        config = StudyConfig(
            name=study or "",
            task=describe_source(source),
            space_name="",
            space_toml="",
            epochs=epochs,
            steps_per_epoch=site.steps_per_epoch,
            num_validation=site.num_validation,
            num_classes=loaded.num_classes,
            settings=loaded.settings,
            seed=seed,
            budget=Budget(len(compared) * max_seeds, "runs"),
            pruner="none",
            baseline=baseline,
            target=target,
            num_seeds=num_seeds,
            max_seeds=max_seeds,
            num_confirmed=len(compared) - 1,
            recipes=tuple(compared),
            environment=site.environment(baseline),
            command=command or f"lrtune.compare(..., {names})",
        )
        config = replace(config, name=study or default_name(loaded.name, "comparison", config))
        return run_study(places.database().open(config), site, places, quiet=quiet, on_event=on_event)


def _winner(name: str, epochs: int, places: Places) -> NamedRecipe:
    """The recommended recipe of a study, its lengths in proportion to other runs."""
    state = places.existing().study(name).state()
    found = recommend(state)
    if found is None:
        raise InputError(f"study {name!r} has no recipe to include: no run of it has finished.")
    recipe = found.best.recipe
    if state.config.epochs != epochs:
        recipe = compress(recipe, state.config.epochs, epochs)
    return NamedRecipe(name=f"{found.best.name} of {name}", recipe=recipe)
