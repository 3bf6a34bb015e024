"""The commands except `compare`.

Each function checks its arguments and calls the packages that do the work.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lrtune.app.arguments import (
    check_study,
    check_target,
    check_whole,
    engine_of,
    objective_of,
    open_task,
    with_settings,
)
from lrtune.app.engines import open_native
from lrtune.app.places import Places
from lrtune.app.results import recipe_of, result_of, write_study_report
from lrtune.app.studies import Request, check_facts, check_space, fitted_rungs, train_study
from lrtune.core.engines import EngineName, EngineOptions, Local
from lrtune.core.errors import InputError, Problems, StoreError
from lrtune.core.events import Note
from lrtune.core.objective import Objective
from lrtune.core.optimizers import OPTIMIZERS
from lrtune.core.recipe import Recipe, length_problems
from lrtune.core.space import Space, parse_space
from lrtune.core.study import (
    Budget,
    PrunerName,
    RangeResult,
    Rung,
    SamplerName,
    Signal,
    StudyConfig,
    StudyState,
)
from lrtune.core.training import Devices
from lrtune.decide.abilities import shares_seeds
from lrtune.decide.bounds import range_result
from lrtune.decide.recommend import recommend
from lrtune.decide.rungs import check_rungs
from lrtune.reporting.export import Export, Target
from lrtune.reporting.export import export as export_recipe
from lrtune.reporting.result import SearchResult, measurements_of
from lrtune.store.database import check_rules, missing_file
from lrtune.store.recipes import read_recipe
from lrtune.store.spaces import read_space
from lrtune.training.native.randomness import preserved_random_states
from lrtune.training.native.range_test import for_optimizer
from lrtune.training.task import (
    Task,
    TaskSource,
    change_settings,
    describe_source,
    source_from,
)
from lrtune.tuning.engine import Emit
from lrtune.tuning.engine import Engine as TrainingEngine
from lrtune.tuning.sampler import delete_mirror, mirror

FOLLOW_S = 5.0
"""Seconds between two updates of the dashboard's copy of a study."""


def search(
    task: TaskSource | str | Path,
    *,
    space: str | Path = "default",
    budget: str | int = 50,
    epochs: int | None = None,
    study: str | None = None,
    seed: int = 0,
    engine: EngineName | EngineOptions = "local",
    sampler: SamplerName = "tpe",
    pruner: PrunerName = "fair",
    rungs: str = "auto",
    reduction_factor: int = 3,
    signal: Signal = "averaged",
    metric: str | Objective | None = None,
    target: float | None = None,
    baseline: Recipe | str | Path | None = None,
    tries: Sequence[Recipe | str | Path] = (),
    num_seeds: int = 3,
    max_seeds: int | None = None,
    num_confirmed: int = 3,
    settings: Mapping[str, Any] | None = None,
    home: str | Path = ".lrtune",
    out: str | Path = "reports",
    storage: str = "",
    quiet: bool = False,
    on_event: Emit | None = None,
    command: str = "",
) -> SearchResult:
    """Searches a space for the best schedule.

    A call with the same arguments goes on with the same study.

    Args:
        task: what is trained: a `Task`, the names of one, or the path of a file that defines it.
        space: name of a space that comes with lrtune, or a TOML file.
        budget: `50` (trials), `"300ep"` (epochs trained), `"20runs"` (full-length equivalents) or
            `"4h"`.
        epochs: of every full run; by default the task's.
        study: its name; by default made from the task, the space and the other arguments.
        seed: of everything random.
        engine: `local`, `ray`, or an `lrtune.Local` or an `lrtune.Ray` that says more.
        sampler: `tpe`, `gp`, `random` or `qmc`.
        pruner: `fair` (successive halving on fair signals), `halving`, `hyperband` (both on the
            first epochs of the full run), `hopeless`, `median`, `patient` or `none`.
        rungs: the looks at a recipe before its full run. `c1,c3,9` are the whole schedule
            compressed to 1 epoch and to 3, and the first 9 epochs of the full run. `auto` chooses
            them by the pruner, the epochs and the size of the data.
        reduction_factor: one of this many trials on a rung is promoted, and one of more where the
            next run is longer by more than this factor.
        signal: what an unfinished run is judged by: its `averaged` weights, or the `raw` ones.
        metric: what decides, `NAME`, `NAME:max` or `NAME:min`; by default the task's objective.
        target: its value that convergence is measured against; by default the baseline's median.
        baseline: what the user has today, or where to read it: the name of a recipe that comes with
            lrtune, or a TOML file. By default the task's.
        tries: recipes that are tried first after the baseline's, moved into the space where they
            are not of it.
        num_seeds: runs of the baseline, and of each recipe that is confirmed.
        max_seeds: runs of those among them that `num_seeds` do not tell apart; by default two more
            than those.
        num_confirmed: recipes that are retrained with fresh seeds at the end.
        settings: changes to the task's `TrainSettings`, by field.
        home: folder of database and checkpoints.
        out: folder of the reports.
        storage: SQLAlchemy URL of another database.
        quiet: no display.
        on_event: called with each event of `lrtune.core.events` as it happens, by one thread at a
            time. An `EpochEnded` has a run and its measurement, for example to log them with W&B,
            MLflow or TensorBoard.
        command: what to quote as the way to do it again.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    problems = Problems()
    budget_asked = Budget(50, "trials")
    with problems.gather():
        budget_asked = Budget.parse(budget)
    space_name, space_toml = str(space), ""
    with problems.gather():
        space_name, space_toml = read_space(space)
    options: EngineOptions = Local()
    with problems.gather():
        options = engine_of(engine)
    check_study(
        problems, epochs=epochs, num_seeds=num_seeds, max_seeds=max_seeds, seed=seed, study=study
    )
    for name, word, choices in (
        ("sampler", sampler, get_args(SamplerName)), ("pruner", pruner, get_args(PrunerName)),
        ("signal", signal, get_args(Signal)),
    ):  # fmt: skip
        if word not in choices:
            problems.append(f"`{name}` must be one of {', '.join(choices)}, but got {word!r}.")
    check_whole(problems, 0, num_confirmed=num_confirmed)
    check_whole(problems, 2, reduction_factor=reduction_factor)
    loaded: Task | None = None
    with problems.gather():
        source, loaded = open_task(task, metric)
    check_target(problems, target, objective_of(task, metric, loaded))
    if loaded is None or problems:
        raise InputError(problems)

    epochs = epochs or loaded.epochs
    max_seeds = num_seeds + 2 if max_seeds is None else max_seeds
    own = baseline if isinstance(baseline, Recipe) else loaded.baseline
    if isinstance(baseline, str | Path):
        with problems.gather():
            own = read_recipe(baseline, epochs).recipe
    problems += [f"the baseline: {problem}" for problem in length_problems(own, epochs)]
    tried: list[Recipe] = []
    for recipe in tries:
        with problems.gather():
            tried.append(
                recipe if isinstance(recipe, Recipe) else read_recipe(recipe, epochs).recipe
            )
    parsed: Space | None = None
    with problems.gather():
        parsed = parse_space(space_toml, space_name, optimizer=own.optimizer)
        parsed.fit(epochs, {})
        problems += _strange_tries(tried, parsed)
    if budget_asked.unit in ("epochs", "runs"):
        runs = budget_asked.amount / (epochs if budget_asked.unit == "epochs" else 1)
        if runs < num_seeds + 1:
            needed = f"the baseline's {num_seeds} runs of {epochs} epochs and one trial"
            problems.append(f"`budget` must cover {needed}, but got {budget}.")
    with problems.gather():
        loaded = with_settings(loaded, settings, options)
    given_rungs: tuple[Rung, ...] = ()
    if rungs != "auto":
        with problems.gather():
            given_rungs = Rung.parse(rungs)
            check_rungs(given_rungs, pruner, epochs)
    problems.raise_any()
    assert parsed is not None
    request = Request(
        options=options, task=loaded, source=source, places=places, quiet=quiet, on_event=on_event
    )

    def configure(engine: TrainingEngine) -> StudyConfig:
        facts = engine.facts
        recipes = {"the baseline": own} | {recipe.label: recipe for recipe in tried}
        check_space(facts, parsed)
        check_facts(facts, recipes, loaded.decides)
        config = StudyConfig(
            name=study or "",
            task=describe_source(source),
            space_name=space_name,
            space_toml=space_toml,
            epochs=epochs,
            steps_per_epoch=facts.steps_per_epoch,
            objective=facts.objective,
            paired=shares_seeds(facts.abilities),
            num_validation=facts.num_validation,
            groups=facts.groups,
            settings=loaded.settings,
            seed=seed,
            budget=budget_asked,
            sampler=sampler,
            pruner=pruner,
            rungs=given_rungs,
            reduction_factor=reduction_factor,
            signal=signal,
            baseline=own,
            tried=tuple(tried),
            target=target,
            num_seeds=num_seeds,
            max_seeds=max_seeds,
            num_confirmed=num_confirmed,
            command=command or f"lrtune.search(..., space={space_name!r}, budget={str(budget)!r})",
            environment=engine.environment(own),
        )
        return replace(config, rungs=fitted_rungs(config, facts))

    return train_study(configure, request)


def _strange_tries(tries: Sequence[Recipe], space: Space) -> Iterator[str]:
    """Yields a problem for each recipe whose optimizer or decay the space does not have."""
    for recipe in tries:
        for key, given in (("optimizer", recipe.optimizer), ("decay", recipe.decay.name)):
            if given not in (words := space.choices(key)):
                rule = f"the {key} of `tries` must be one of the space's, {', '.join(words)}"
                yield f"{rule}, but got {recipe.label}."


def export(
    name: str,
    *,
    to: Target,
    recipe: str | int = "best",
    home: str | Path = ".lrtune",
    storage: str = "",
) -> Export:
    """Returns a study's recipe as code for another framework, or as data.

    Args:
        name: of the study.
        to: which framework.
        recipe: `best`, which is the recommended one, the `simplest` that may well be the best, the
            `baseline`, or the number of a trial.
        home: folder of the database.
        storage: SQLAlchemy URL of another database.

    Raises:
        InputError: there is no such study or recipe, or nothing of it has finished, or the
            framework has no equal.
    """
    if to not in get_args(Target):
        raise InputError(f"`to` must be one of {', '.join(get_args(Target))}, but got {to!r}.")
    state = Places(home=Path(home), storage=storage).existing().study(name).state()
    recommendation = recommend(state)
    if recommendation is None:
        raise InputError(f"study {name!r} has nothing to export: no run of it has finished.")
    config, chosen = state.config, recipe_of(state, recommendation, recipe)
    made = export_recipe(
        chosen.recipe,
        epochs=config.epochs,
        steps_per_epoch=config.steps_per_epoch,
        settings=config.settings,
        to=to,
        groups=config.groups,
        measurements=measurements_of(state, chosen.number),
    )
    note = f"{chosen.name}: {chosen.recipe.label}. {made.note}"
    if chosen.number not in (contender.trial for contender in recommendation.contenders):
        note += " Not final: the recipe is not confirmed with fresh seeds."
    elif recipe in ("best", "simplest") and not recommendation.final:
        note += " Not final: the study is not finished."
    return replace(made, note=note)


def resume(
    name: str,
    *,
    budget: str | int | None = None,
    engine: EngineName | EngineOptions = "local",
    home: str | Path = ".lrtune",
    out: str | Path = "reports",
    storage: str = "",
    quiet: bool = False,
    on_event: Emit | None = None,
    command: str = "",
) -> SearchResult:
    """Goes on with a study, with any engine.

    `budget` replaces the study's own, and `command` is then quoted in the report as the way to do
    that again. The other arguments are those of `search`.

    Raises:
        InputError: there is no such study, its task has changed, or its task is a Python object
            that only the program has that began the study.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    options = engine_of(engine)
    config = places.existing().study(name).config
    check_rules(config)
    source = source_from(config.task)
    if budget is not None:
        begun = re.sub(r"; lrtune[ .]resume.*", "", config.command)
        again = command or f"lrtune.resume({name!r}, budget={str(budget)!r})"
        config = replace(config, budget=Budget.parse(budget), command=f"{begun}; {again}")
    _, task = open_task(source, str(config.objective))
    request = Request(
        options=options,
        task=replace(task, settings=config.settings),
        source=source,
        places=places,
        quiet=quiet,
        on_event=on_event,
    )

    def configure(engine: TrainingEngine) -> StudyConfig:
        facts = engine.facts  # data that have changed since are refused
        return replace(
            config,
            steps_per_epoch=facts.steps_per_epoch,
            num_validation=facts.num_validation,
            groups=facts.groups,
        )

    return train_study(configure, request)


def report(
    name: str, *, home: str | Path = ".lrtune", out: str | Path = "reports", storage: str = ""
) -> SearchResult:
    """Writes a study's report again, finished or not.

    Raises:
        InputError: there is no such study.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    return write_study_report(places.existing().study(name).state(), places)


def load(
    name: str, *, home: str | Path = ".lrtune", out: str | Path = "reports", storage: str = ""
) -> SearchResult:
    """Loads a study, finished or not; nothing is trained or written.

    Raises:
        InputError: there is no such study.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    return result_of(places.existing().study(name).state(), places)


def delete(
    name: str, *, home: str | Path = ".lrtune", storage: str = "", storage_path: str = ""
) -> None:
    """Deletes a study's records, its checkpoints, and its copy for Optuna's tools.

    Its report stays.

    Args:
        name: of the study.
        home: folder of database and checkpoints.
        storage: SQLAlchemy URL of another database.
        storage_path: folder or URL of the checkpoints, where they are not in `home`.

    Raises:
        InputError: there is no such study, or a worker is using it.
    """
    places = Places(home=Path(home), storage=storage, storage_path=storage_path)
    places.existing().delete(name)
    places.checkpoints(name).keep_only(())
    delete_mirror(name, places.url)


def find_lr(
    task: TaskSource | str | Path,
    *,
    optimizer: str | None = None,
    low: float | None = None,
    high: float | None = None,
    num_steps: int = 200,
    num_seeds: int = 3,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> RangeResult:
    """Runs an LR range test on a task.

    The result has the interval of peak LRs worth searching, or the reason why there is no signal.

    Args:
        task: see `search`.
        optimizer: by default that of the task's baseline.
        low: first LR of the sweep; by default far below what the optimizer can use.
        high: last LR of the sweep; by default past where it diverges.
        num_steps: optimizer steps of a sweep.
        num_seeds: sweeps.
        seed: of the first sweep.
        settings: changes to the task's `TrainSettings`, by field.
    """
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise InputError(
            f"`optimizer` must be one of {', '.join(OPTIMIZERS)}, but got {optimizer!r}."
        )
    if num_seeds < 1:
        raise InputError(f"`1 <= num_seeds` must hold, but got {num_seeds}.")
    source, loaded = open_task(task, None)
    changed = change_settings(loaded, settings or {})
    chosen = optimizer or loaded.baseline.optimizer
    with preserved_random_states():
        training = open_native(Local(), loaded, source, changed)(Devices())
        recipe = for_optimizer(loaded.baseline, chosen)
        curves = [
            training.sweep(recipe, seed=seed + index, low=low, high=high, num_steps=num_steps)
            for index in range(num_seeds)
        ]
    return range_result(chosen, curves)


def studies(
    *,
    home: str | Path = ".lrtune",
    storage: str = "",
    on_event: Callable[[Note], None] | None = None,
) -> list[StudyState]:
    """Returns all studies, oldest first; empty if there is no database.

    Args:
        home: folder of the database.
        storage: SQLAlchemy URL of another database.
        on_event: called with a `Note` for each study that is left out because it cannot be read.
    """
    places = Places(home=Path(home), storage=storage)
    if missing_file(places.url):
        return []
    database = places.database()
    states = []
    for name in database.names():
        try:
            states.append(database.study(name).state())
        except StoreError as error:
            if on_event is not None:
                on_event(Note(str(error)))
    return states


def dashboard(
    name: str,
    *,
    home: str | Path = ".lrtune",
    storage: str = "",
    host: str = "127.0.0.1",
    port: int = 8080,
) -> None:
    """Serves optuna-dashboard on a study, and keeps it up to date until interrupted.

    Raises:
        InputError: there is no such study, or the `dashboard` extra is not installed.
    """
    places = Places(home=Path(home), storage=storage)
    store = places.existing().study(name)
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise InputError(
            "`lrtune dashboard` needs optuna-dashboard: pip install 'lrtune[dashboard]'."
        ) from None
    if store.config.is_comparison:
        raise InputError(f"{name!r} is a comparison: it has no trials that a dashboard could show.")
    mirror(store.state(), places.url)
    stopped = threading.Event()

    def follow() -> None:
        while not stopped.wait(FOLLOW_S):
            with suppress(StoreError):  # the database may be locked for a while
                mirror(store.state(), places.url)

    threading.Thread(target=follow, daemon=True).start()
    try:
        run_server(places.url, host=host, port=port)
    finally:
        stopped.set()
