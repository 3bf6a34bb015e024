"""The wiring: one function a command. What a command does is decided here, how it is done in the rooms below."""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lrtune.app.arguments import check_study, default_name, engine_of, task_source, threads_of
from lrtune.app.engines import open_site
from lrtune.app.places import Places
from lrtune.app.studies import result_of, run_study, write_study_report
from lrtune.core.engines import Engine, EngineName, Local
from lrtune.core.errors import InputError, Problems, StoreError
from lrtune.core.events import Note
from lrtune.core.recipe import OPTIMIZERS, OptimizerName, Recipe
from lrtune.core.space import parse_space
from lrtune.core.study import Budget, PrunerName, RangeResult, Rung, SamplerName, Signal, StudyConfig, StudyState
from lrtune.decide.recommend import recommend
from lrtune.decide.rungs import automatic_rungs, check_rungs
from lrtune.report.export import Export, Target
from lrtune.report.export import export as export_recipe
from lrtune.report.result import SearchResult, measurements_of
from lrtune.schedules import build_schedule
from lrtune.search.engine import Emit
from lrtune.search.sampler import mirror
from lrtune.store.database import missing_file
from lrtune.store.recipes import read_recipe
from lrtune.store.spaces import read_space
from lrtune.training.loop import Trainer
from lrtune.training.randomness import preserved_random_states
from lrtune.training.range_test import for_optimizer, task_range_test
from lrtune.training.task import Task, TaskSource, describe_source, load_task, settings_for, source_from


def search(
    task: TaskSource | str | Path,
    *,
    space: str | Path = "default",
    budget: str | int = 50,
    epochs: int | None = None,
    study: str | None = None,
    seed: int = 0,
    engine: EngineName | Engine = "local",
    jobs: int = 1,
    lanes: str | int = "auto",
    sampler: SamplerName = "tpe",
    pruner: PrunerName = "fair",
    rungs: str = "auto",
    reduction_factor: int = 3,
    signal: Signal = "averaged",
    target: float | None = None,
    baseline: Recipe | str | Path | None = None,
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
    """Searches the space for the best schedule, or goes on with the study that the same arguments began.

    Args:
        task: what is trained: a `Task`, the names of one, or the path of a file that defines it.
        space: name of a space that comes with lrtune, or a TOML file.
        budget: `50` (trials), `"300ep"` (epochs trained), `"20runs"` (full-length equivalents) or `"4h"`.
        epochs: of every full run; by default the task's.
        study: its name; by default made from the task, the space and the other arguments.
        seed: of everything random.
        engine: `local`, `ray`, or an `lrtune.Ray` that says more.
        jobs: of the local engine, trials side by side, each in a process of its own.
        lanes: of the local engine, trials side by side on one GPU; `"auto"` tries out how many pay.
        sampler: `tpe`, `gp`, `random` or `qmc`.
        pruner: `fair` (successive halving on fair signals), `halving`, `hyperband` (both on the first epochs of the
            full run), `hopeless`, `median`, `patient` or `none`.
        rungs: the looks at a recipe before its full run, `c1,c3,9` say: the whole schedule compressed to 1 epoch and
            to 3, and the first 9 epochs of the full run. `auto`: by the pruner, the epochs and the size of the data.
        reduction_factor: of this many trials on a rung one goes up; of more where the next run is so much longer.
        signal: what an unfinished run is judged by: the Top-1 of its `averaged` weights, or `raw`.
        target: Top-1, percent, that convergence is measured against; by default the baseline's median.
        baseline: what the user has today, or where to read it: the name of a recipe that comes with lrtune, or a TOML
            file. By default the task's.
        num_seeds: runs of the baseline, and of each recipe that is confirmed.
        max_seeds: runs of those among them that `num_seeds` do not tell apart; by default two more than those.
        num_confirmed: recipes that are retrained with fresh seeds at the end.
        settings: changes to the task's `TrainSettings`, by field.
        home: folder of database and checkpoints.
        out: folder of the reports.
        storage: SQLAlchemy URL of another database.
        quiet: no display.
        on_event: called with each event of `lrtune.core.events` as it happens, by one thread at a time; an `EpochEnded`
            has a run and its measurement, to log them with W&B, MLflow or TensorBoard, say.
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
    chosen: Engine = Local()
    with problems.gather():
        chosen = engine_of(engine, jobs, lanes)
    max_seeds = num_seeds + 2 if max_seeds is None else max_seeds
    check_study(problems, epochs=epochs, target=target, num_seeds=num_seeds, max_seeds=max_seeds, study=study)
    for name, word, known in (
        ("sampler", sampler, get_args(SamplerName)), ("pruner", pruner, get_args(PrunerName)),
        ("signal", signal, get_args(Signal)),
    ):  # fmt: skip
        if word not in known:
            problems.append(f"`{name}` must be one of {', '.join(known)}, but got {word!r}.")
    if num_confirmed < 0:
        problems.append(f"`0 <= num_confirmed` must hold, but got {num_confirmed}.")
    if reduction_factor < 2:
        problems.append(f"`2 <= reduction_factor` must hold, but got {reduction_factor}.")
    loaded: Task | None = None
    with problems.gather():
        source = task_source(task)
        loaded = load_task(source)
    if loaded is None or problems:
        raise InputError(problems)

    epochs = epochs or loaded.epochs
    chosen_baseline = baseline if isinstance(baseline, Recipe) else loaded.baseline
    if isinstance(baseline, str | Path):
        with problems.gather():
            chosen_baseline = read_recipe(baseline, epochs).recipe
    baseline = chosen_baseline
    with problems.gather():
        parsed = parse_space(space_toml, space_name, optimizer=baseline.optimizer)
        parsed.fit(epochs, {})
    with problems.gather():
        build_schedule(baseline, epochs=epochs, steps_per_epoch=1000)
    if budget_asked.unit in ("epochs", "runs"):
        runs = budget_asked.amount / (epochs if budget_asked.unit == "epochs" else 1)
        if runs < num_seeds + 1:
            needed = f"the baseline's {num_seeds} runs of {epochs} epochs and one trial"
            problems.append(f"`budget` must cover {needed}, but got {budget}.")
    changed = {"threads": threads_of(chosen)} | dict(settings or {})
    with problems.gather():
        loaded = replace(loaded, settings=settings_for(loaded, replace(loaded.settings, **changed)))
    given_rungs: tuple[Rung, ...] | None = None
    if rungs != "auto":
        with problems.gather():
            given_rungs = Rung.parse(rungs)
            check_rungs(given_rungs, pruner, epochs)
    problems.raise_any()

    with (
        preserved_random_states(),
        open_site(chosen, loaded, source, loaded.settings, baseline, places) as site,
    ):
        config = StudyConfig(
            name=study or "",
            task=describe_source(source),
            space_name=space_name,
            space_toml=space_toml,
            epochs=epochs,
            steps_per_epoch=site.steps_per_epoch,
            num_validation=site.num_validation,
            num_classes=loaded.num_classes,
            settings=loaded.settings,
            seed=seed,
            budget=budget_asked,
            sampler=sampler,
            pruner=pruner,
            rungs=given_rungs
            if given_rungs is not None
            else automatic_rungs(pruner, epochs, site.steps_per_epoch, reduction_factor),
            reduction_factor=reduction_factor,
            signal=signal,
            baseline=baseline,
            target=target,
            num_seeds=num_seeds,
            max_seeds=max_seeds,
            num_confirmed=num_confirmed,
            environment=site.environment(baseline),
            command=command or f"lrtune.search(..., space={space_name!r}, budget={str(budget)!r})",
        )
        config = replace(config, name=study or default_name(loaded.name, Path(space_name).stem, config))
        return run_study(places.database().open(config), site, places, quiet=quiet, on_event=on_event)


def export(name: str, *, to: Target, home: str | Path = ".lrtune", storage: str = "") -> Export:
    """A study's recommended recipe in the words of another framework, its LR at every step that of the study.

    Args:
        name: of the study.
        to: which framework.
        home: folder of the database.
        storage: SQLAlchemy URL of another database.

    Raises:
        InputError: there is no such study, or nothing of it has finished, or the framework has no equal.
    """
    if to not in get_args(Target):
        raise InputError(f"`to` must be one of {', '.join(get_args(Target))}, but got {to!r}.")
    state = Places(home=Path(home), storage=storage).existing().study(name).state()
    found = recommend(state)
    if found is None:
        raise InputError(f"study {name!r} has nothing to export: no run of it has finished.")
    config, best = state.config, found.best
    made = export_recipe(
        best.recipe, epochs=config.epochs, steps_per_epoch=config.steps_per_epoch, settings=config.settings, to=to,
        measurements=measurements_of(state, best),
    )  # fmt: skip
    if found.final:
        return made
    reason = "the study is not finished" if best.top1s else "the recipe is not confirmed with fresh seeds"
    return replace(made, note=f"{made.note} Not final: {reason}.")


def resume(
    name: str,
    *,
    budget: str | int | None = None,
    engine: EngineName | Engine = "local",
    jobs: int = 1,
    lanes: str | int = "auto",
    home: str | Path = ".lrtune",
    out: str | Path = "reports",
    storage: str = "",
    quiet: bool = False,
    on_event: Emit | None = None,
    command: str = "",
) -> SearchResult:
    """Goes on with a study, with whatever engine.

    Args:
        name: of the study.
        budget: another than the one it has.
        engine: see `search`.
        jobs: see `search`.
        lanes: see `search`.
        home: folder of database and checkpoints.
        out: folder of the reports.
        storage: SQLAlchemy URL of another database.
        quiet: no display.
        on_event: see `search`.
        command: where there is another budget, what to quote as the way to go on so.

    Raises:
        InputError: there is no such study, or its task is a Python object that only its program has, or has changed.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    chosen = engine_of(engine, jobs, lanes)
    database = places.existing()
    config = database.study(name).config
    source = source_from(config.task)
    if budget is not None:
        begun = re.sub(r"; lrtune[ .]resume.*", "", config.command)
        again = command or f"lrtune.resume({name!r}, budget={str(budget)!r})"
        config = replace(config, budget=Budget.parse(budget), command=f"{begun}; {again}")
    task = load_task(source)
    with (
        preserved_random_states(),
        open_site(chosen, task, source, config.settings, config.baseline, places) as site,
    ):
        config = replace(config, steps_per_epoch=site.steps_per_epoch, num_validation=site.num_validation)
        return run_study(database.open(config), site, places, quiet=quiet, on_event=on_event)


def report(name: str, *, home: str | Path = ".lrtune", out: str | Path = "reports", storage: str = "") -> SearchResult:
    """Writes a study's report again, finished or not.

    Raises:
        InputError: there is no such study.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    return write_study_report(places.existing().study(name).state(), places)


def load(name: str, *, home: str | Path = ".lrtune", out: str | Path = "reports", storage: str = "") -> SearchResult:
    """A study as far as it has come; nothing is trained or written.

    Raises:
        InputError: there is no such study.
    """
    places = Places(home=Path(home), out=Path(out), storage=storage)
    return result_of(places.existing().study(name).state(), places)


def delete(name: str, *, home: str | Path = ".lrtune", storage: str = "", storage_path: str = "") -> None:
    """Deletes what is recorded of a study, and its checkpoints. Its report stays.

    Args:
        name: of the study.
        home: folder of database and checkpoints.
        storage: SQLAlchemy URL of another database.
        storage_path: folder or URL of the checkpoints, where they are not in `home`.

    Raises:
        InputError: there is no such study, or a worker is at it.
    """
    places = Places(home=Path(home), storage=storage, storage_path=storage_path)
    places.existing().delete(name)
    places.checkpoints(name).keep_only(())


def find_lr(
    task: TaskSource | str | Path,
    *,
    optimizer: OptimizerName | None = None,
    low: float | None = None,
    high: float | None = None,
    num_steps: int = 200,
    num_seeds: int = 3,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> RangeResult:
    """An LR range test on a task: the interval of peak LRs worth searching, or no signal and why.

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
        raise InputError(f"`optimizer` must be one of {', '.join(OPTIMIZERS)}, but got {optimizer!r}.")
    if num_seeds < 1:
        raise InputError(f"`1 <= num_seeds` must hold, but got {num_seeds}.")
    loaded = load_task(task_source(task))
    with preserved_random_states():
        trainer = Trainer(loaded, replace(loaded.settings, **(settings or {})))
        recipe = for_optimizer(loaded.baseline, optimizer or loaded.baseline.optimizer)
        seeds = range(seed, seed + num_seeds)
        return task_range_test(trainer, recipe, seeds=seeds, num_steps=num_steps, low=low, high=high)


def studies(
    *, home: str | Path = ".lrtune", storage: str = "", on_event: Callable[[Note], None] | None = None
) -> list[StudyState]:
    """All studies, oldest first; empty where there is no database.

    Args:
        home: folder of the database.
        storage: SQLAlchemy URL of another database.
        on_event: called with a `Note` for each study that is left out because it cannot be read.
    """
    places = Places(home=Path(home), storage=storage)
    if missing_file(places.url):
        return []
    database = places.database()
    found = []
    for name in database.names():
        try:
            found.append(database.study(name).state())
        except StoreError as error:
            if on_event is not None:
                on_event(Note(str(error)))
    return found


def dashboard(
    name: str, *, home: str | Path = ".lrtune", storage: str = "", host: str = "127.0.0.1", port: int = 8080
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
        raise InputError("`lrtune dashboard` needs optuna-dashboard: pip install 'lrtune[dashboard]'.") from None
    if store.config.is_comparison:
        raise InputError(f"{name!r} is a comparison: it has no trials that a dashboard could show.")
    mirror(store.state(), places.url)
    stopped = threading.Event()

    def follow() -> None:
        while not stopped.wait(5.0):
            mirror(store.state(), places.url)

    threading.Thread(target=follow, daemon=True).start()
    try:
        run_server(places.url, host=host, port=port)
    finally:
        stopped.set()
