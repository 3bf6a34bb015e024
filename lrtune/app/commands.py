"""The commands except `compare`.

Each function checks what it is asked for and calls the packages that do the work.
"""

import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lrtune.app.arguments import changed_settings, open_task, task_source
from lrtune.app.engines import open_native
from lrtune.app.places import Places
from lrtune.app.results import recipe_of, result_of, write_study_report
from lrtune.app.steering import find_in_command
from lrtune.app.studies import (
    Request,
    begun,
    check_budget,
    check_facts,
    check_schedules,
    check_space,
    ranked_by,
    request_of,
    sweep_seeds,
    teller,
    train_study,
)
from lrtune.app.subjects import command_problems, resumed, space_problems
from lrtune.core import commands
from lrtune.core.commands import takes
from lrtune.core.engines import Local
from lrtune.core.errors import InputError, Problems, StoreError
from lrtune.core.events import Note
from lrtune.core.objective import Objective
from lrtune.core.optimizers import OWN
from lrtune.core.recipe import Recipe, default_recipe, length_problems
from lrtune.core.sources import CommandLine
from lrtune.core.space import Space, first_values, parse_space
from lrtune.core.study import Budget, Look, RangeResult, StudyConfig, StudyState
from lrtune.core.training import Devices
from lrtune.decide.bounds import range_result
from lrtune.decide.looks import automatic_looks, parse_looks
from lrtune.decide.recommend import recommend
from lrtune.decide.sweep import sweep_lrs
from lrtune.reporting import wording
from lrtune.reporting.export import Export
from lrtune.reporting.export import export as export_recipe
from lrtune.reporting.result import SearchResult, measurements_of
from lrtune.store.database import check_rules, missing_file
from lrtune.store.recipes import known_of, read_recipe
from lrtune.store.spaces import read_space
from lrtune.training.command.recording import First
from lrtune.training.native.randomness import preserved_random_states
from lrtune.training.native.range_test import for_optimizer
from lrtune.training.task import change_settings
from lrtune.tuning.engine import Engine as TrainingEngine
from lrtune.tuning.sampler import mirror

MAX_SEEDS = 8
"""Runs of a recipe in the race of a search, at most."""
FOLLOW_S = 5.0
"""Seconds between two updates of the dashboard's copy of a study."""


@takes(commands.Search)
def search(asked: commands.Search) -> SearchResult:
    """Searches a space for the best schedule.

    A call with the same arguments goes on with the same study.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    problems = Problems()
    asked = asked.sound(problems)
    budget = Budget(50, "trials")
    with problems.gather():
        budget = Budget.parse(asked.budget)
    space_name, space_toml = "", ""
    with problems.gather():
        name, toml = read_space(asked.space)
        parse_space(toml, name, optimizer=None)  # before a command is run to know its optimizer
        space_name, space_toml = name, toml
    looks: tuple[Look, ...] = ()
    if asked.looks != "auto":
        with problems.gather():
            looks = parse_looks(asked.looks, asked.epochs or math.inf, seed=asked.seed)
    if asked.rank_by is not None and ":" in asked.rank_by:  # the task may know a name alone
        with problems.gather():
            Objective.parse(asked.rank_by)
    known = None if asked.baseline is None else known_of(asked.baseline)
    first = First(
        seed=asked.seed + 1,  # the first of the fresh seeds
        epochs=asked.epochs,
        peak_lr=known.peak_lr if known else None,
        values=first_values(space_toml),
    )
    request = request_of(asked, problems, first)
    subject = request.subject
    epochs = asked.epochs or subject.epochs
    own = subject.baseline if asked.optimizer is None else default_recipe(asked.optimizer)
    if asked.baseline is not None:
        with problems.gather():
            own = _recipe(asked.baseline, epochs, subject.steered)
    problems += [f"the baseline: {problem}" for problem in length_problems(own, epochs)]
    tried: list[Recipe] = []
    for recipe in asked.tries:
        with problems.gather():
            tried.append(_recipe(recipe, epochs, subject.steered))
    problems += command_problems(
        subject, {"the baseline": own} | {recipe.label: recipe for recipe in tried}
    )
    space: Space | None = None
    if space_name:
        with problems.gather():
            space = parse_space(space_toml, space_name, optimizer=own.optimizer)
            space.fit(epochs, {})
            problems += space_problems(subject, space)
            problems += _strange_tries(tried, space)
    own_epochs = subject.epochs if own == subject.steered else epochs  # a command is not cut
    if looks:
        with problems.gather():
            looks = parse_looks(asked.looks, epochs, seed=asked.seed)
    problems.raise_any()
    assert space is not None
    call = f"lrtune.search(..., space={space_name!r}, budget={str(asked.budget)!r})"

    def configure(engine: TrainingEngine) -> StudyConfig:
        recipes = {"the baseline": own} | {recipe.label: recipe for recipe in tried}
        check_space(engine.facts, space)
        check_facts(engine.facts, recipes, subject.objective)
        facts = engine.facts
        chosen = looks or automatic_looks(
            epochs, facts.steps_per_epoch, seed=asked.seed, start_epochs=facts.start_epochs
        )
        config = replace(
            begun(asked, request, engine, epochs=epochs, baseline=own),
            space_name=space_name,
            space_toml=space_toml,
            budget=budget,
            rank_by=ranked_by(asked.rank_by, facts),
            looks=chosen if asked.pruner == "fair" else (),
            own_epochs=own_epochs if own_epochs > epochs else 0,
            tried=tuple(tried),
            max_seeds=max(MAX_SEEDS, asked.num_seeds)
            if asked.max_seeds is None
            else asked.max_seeds,
            command=asked.command or call,
        )
        check_schedules(config, facts)
        check_budget(config)
        return config

    return train_study(configure, request)


def _recipe(recipe: Recipe | str | Path, epochs: int, own: Recipe | None) -> Recipe:
    """A recipe, or the one that is read from a file or comes with lrtune; see `read_recipe`."""
    return recipe if isinstance(recipe, Recipe) else read_recipe(recipe, epochs, own=own).recipe


def _strange_tries(tries: Sequence[Recipe], space: Space) -> Iterator[str]:
    """Yields a problem for each recipe whose optimizer or decay the space does not have."""
    for recipe in tries:
        for key, given in (("optimizer", recipe.optimizer), ("decay", recipe.decay.name)):
            if given not in (words := space.choices(key)):
                rule = f"the {key} of `tries` must be one of the space's, {', '.join(words)}"
                yield f"{rule}, but got {recipe.label}."


@takes(commands.Export)
def export(asked: commands.Export) -> Export:
    """Returns a study's recipe as code for another framework, or as data.

    Raises:
        InputError: there is no such study or recipe, or nothing of it has finished, or the
            framework has no equal.
    """
    asked.sound(problems := Problems())
    problems.raise_any()
    name, recipe = asked.name, asked.recipe
    state = Places.of(asked).existing().study(name).state()
    recommendation = recommend(state)
    if recommendation is None:
        raise InputError(f"study {name!r} has nothing to export: no run of it has finished.")
    config, chosen = state.config, recipe_of(state, recommendation, recipe)
    if "command" in config.task and asked.to != "toml":
        raise InputError(
            f"`to` must be toml for {name!r}, which is a study of a command, but got {asked.to}. "
            f"`lrtune apply {name} -- {wording.task(config.task)}` trains the command with the "
            "recipe."
        )
    made = export_recipe(
        chosen.recipe,
        epochs=config.epochs,
        steps_per_epoch=config.steps_per_epoch,
        settings=config.settings,
        to=asked.to,
        groups=config.groups,
        measurements=measurements_of(state, chosen.number),
    )
    if "command" in config.task:  # which has settings of its own
        made = replace(made, note="A file for `lrtune compare` and `--baseline` of the command.")
    note = f"{chosen.name}: {chosen.recipe.label}. {made.note}"
    if chosen.number not in (contender.trial for contender in recommendation.contenders):
        note += " Not final: the recipe is not confirmed with fresh seeds."
    elif recipe in ("best", "simplest") and not recommendation.final:
        note += " Not final: the study is not finished."
    return replace(made, note=note)


@takes(commands.Resume)
def resume(asked: commands.Resume) -> SearchResult:
    """Goes on with a study, with any engine.

    A new budget replaces the study's own.

    Raises:
        InputError: there is no such study, its task has changed, or its task is a Python object
            that only the program has that began the study.
    """
    asked.sound(problems := Problems())
    problems.raise_any()
    name, places = asked.name, Places.of(asked)
    config = places.existing().study(name).config
    check_rules(config)
    if asked.budget is not None:
        first = re.sub(r"; lrtune[ .]resume.*", "", config.command)
        again = asked.command or f"lrtune.resume({name!r}, budget={str(asked.budget)!r})"
        config = replace(config, budget=Budget.parse(asked.budget), command=f"{first}; {again}")
        check_budget(config)
    request = Request(
        options=asked.chosen_engine,
        subject=resumed(config, asked.chosen_engine, places, teller(asked)),
        places=places,
        quiet=asked.quiet,
        on_event=asked.on_event,
    )

    def configure(engine: TrainingEngine) -> StudyConfig:
        facts = engine.facts  # data that have changed since are refused
        return replace(
            config,
            steps_per_epoch=facts.steps_per_epoch,
            num_validation=facts.num_validation,
            data_facts=facts.data_facts,
            groups=facts.groups,
        )

    return train_study(configure, request)


@takes(commands.Report)
def report(asked: commands.Report) -> SearchResult:
    """Writes a study's report again, finished or not.

    Raises:
        InputError: there is no such study.
    """
    places = Places.of(asked)
    return write_study_report(places.existing().study(asked.name).state(), places)


@takes(commands.Report)
def load(asked: commands.Report) -> SearchResult:
    """Loads a study, finished or not; nothing is trained or written.

    Raises:
        InputError: there is no such study.
    """
    places = Places.of(asked)
    return result_of(places.existing().study(asked.name).state(), places)


@takes(commands.Delete)
def delete(asked: commands.Delete) -> None:
    """Deletes a study's records, its checkpoints, and its copy for Optuna's tools.

    Its report stays.

    Raises:
        InputError: there is no such study, or a worker is using it.
    """
    Places.of(asked).forget(asked.name)


@takes(commands.Find)
def find_lr(asked: commands.Find) -> RangeResult:
    """Runs an LR range test on a task.

    The result has the interval of peak LRs worth searching, or the reason why there is no signal.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    problems = Problems()
    asked = asked.sound(problems)
    source, chosen = None, asked.optimizer or OWN
    with problems.gather():
        source = task_source(asked.task)
        if isinstance(source, CommandLine):
            problems.raise_any()
            return find_in_command(source, asked)
        loaded = open_task(source, None)
        if loaded.data_facts:
            teller(asked)(wording.data_facts(loaded.data_facts))
        chosen = asked.optimizer or loaded.baseline.optimizer
        settings = change_settings(loaded, changed_settings(asked))
    with problems.gather():
        sweep_lrs(chosen, asked.low, asked.high, asked.num_steps)
    problems.raise_any()
    assert source is not None
    with preserved_random_states():
        training = open_native(Local(), loaded, source, settings)(Devices())
        recipe = for_optimizer(loaded.baseline, chosen)
        curves = [
            training.sweep(
                recipe,
                seed=seed,
                low=asked.low,
                high=asked.high,
                num_steps=asked.num_steps,
            )
            for seed in sweep_seeds(asked, chosen)
        ]
    return range_result(chosen, curves)


@takes(commands.Studies)
def studies(asked: commands.Studies) -> list[StudyState]:
    """Returns all studies, oldest first; empty if there is no database."""
    places = Places.of(asked)
    if missing_file(places.url):
        return []
    database = places.database()
    states = []
    for name in database.names():
        try:
            states.append(database.study(name).state())
        except StoreError as error:
            if asked.on_event is not None:
                asked.on_event(Note(str(error)))
    return states


@takes(commands.Dashboard)
def dashboard(asked: commands.Dashboard) -> None:
    """Serves optuna-dashboard on a study, and keeps it up to date until interrupted.

    Raises:
        InputError: there is no such study, or the `dashboard` extra is not installed.
    """
    asked.sound(problems := Problems())
    problems.raise_any()
    name, places = asked.name, Places.of(asked)
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
        run_server(places.url, host=asked.host, port=asked.port)
    finally:
        stopped.set()
