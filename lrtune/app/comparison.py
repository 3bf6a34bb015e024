"""The command `compare`, which trains given recipes as a study without a search."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lrtune.app.arguments import task_source
from lrtune.app.places import Places
from lrtune.app.results import recipe_of
from lrtune.app.studies import (
    begun,
    check_facts,
    check_schedules,
    request_of,
    teller,
    train_study,
)
from lrtune.app.subjects import command_problems
from lrtune.core import commands
from lrtune.core.commands import takes
from lrtune.core.errors import InputError, Problems
from lrtune.core.options import options_of
from lrtune.core.recipe import NamedRecipe, length_problems
from lrtune.core.sources import TypedTask
from lrtune.core.study import Budget, StudyConfig, TrainSettings
from lrtune.decide.recommend import recommend
from lrtune.reporting import wording
from lrtune.reporting.result import SearchResult
from lrtune.schedules.compress import compress
from lrtune.store.recipes import known_of, read_recipe, recipe_names
from lrtune.training.command.recording import First
from lrtune.training.task import describe_source, source_from
from lrtune.tuning.engine import Engine as TrainingEngine


@takes(commands.Compare)
def compare(asked: commands.Compare) -> SearchResult:
    """Trains recipes side by side, seed by seed, and says which is best.

    The recommended recipes of the studies in `include` also take part: `"mine"` includes the best
    recipe of the study `mine`, `"mine:14"` that of its trial 14, and `"mine:simplest"` the simplest
    that may well be the best. The epochs, the metric and the settings are those of the study where
    its task is trained and they are not given; without `recipes`, its baseline is the first recipe.
    Each recipe is trained for `epochs`; a recipe that says for how many epochs it is meant is
    scaled to them. It has one run with each of the `num_seeds` seeds that follow `seed`.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    problems = Problems()
    asked = _as_included(asked.sound(problems), problems)
    known = known_of(asked.recipes[0]) if asked.recipes else None
    first = First(
        seed=asked.seed + 1,
        epochs=asked.epochs,
        peak_lr=known.peak_lr if known else None,
        values=dict(known.command) if known else {},
    )
    request = request_of(asked, problems, first)
    epochs = asked.epochs or request.subject.epochs
    max_seeds = asked.num_seeds if asked.max_seeds is None else asked.max_seeds
    compared: list[NamedRecipe] = []
    own = request.subject.own_optimizer
    if own is not None and not asked.recipes:
        compared.append(NamedRecipe(name="own", recipe=request.subject.baseline))
    included = list(asked.include)
    if included and not asked.recipes and own is None:
        included[:0] = dict.fromkeys(f"{_study(words)}:baseline" for words in asked.include)
    for recipe in asked.recipes or ([] if included else recipe_names()):
        with problems.gather():
            named = (
                recipe
                if isinstance(recipe, NamedRecipe)
                else read_recipe(recipe, epochs, own=request.subject.steered)
            )
            if own not in (None, named.recipe.optimizer) and not asked.recipes:
                continue
            compared.append(named)
            problems += [f"{named.name}: {p}" for p in length_problems(named.recipe, epochs)]
    for words in included:
        with problems.gather():
            named = _included(words, epochs, request.places)
            if named not in compared:  # a study may recommend its baseline
                compared.append(named)
    problems += command_problems(request.subject, {it.name: it.recipe for it in compared})
    if len(names := [named.name for named in compared]) > len(set(names)):
        problems.append(f"recipes must have different names, but got {', '.join(names)}.")
    if len(compared) < 2 and not problems:  # what could not be read is said already
        problems.append(
            f"a comparison needs two recipes at least, but got {', '.join(names) or 'none'}"
            f"{', since the study recommends its baseline' * (len(compared) < len(included))}."
        )
    problems.raise_any()

    def configure(engine: TrainingEngine) -> StudyConfig:
        recipes = {named.name: named.recipe for named in compared}
        check_facts(engine.facts, recipes, request.subject.objective)
        config = replace(
            begun(asked, request, engine, epochs=epochs, baseline=compared[0].recipe),
            budget=Budget(len(compared) * max_seeds, "runs"),
            pruner="none",
            max_seeds=max_seeds,
            recipes=tuple(compared),
            command=asked.command or f"lrtune.compare(..., {names})",
        )
        check_schedules(config, engine.facts)
        return config

    return train_study(configure, request)


def _as_included(asked: commands.Compare, problems: Problems) -> commands.Compare:
    """Returns what was asked for, and what the included studies have of what was not.

    What is trained is theirs unless it is given. Where it is what they train, the epochs, the
    metric and the settings are theirs as well; they must agree on those that are not given.
    """
    configs: list[StudyConfig] = []
    places, tell = Places.of(asked), teller(asked)
    for name in dict.fromkeys(map(_study, asked.include)):
        with problems.gather():
            configs.append(places.existing().study(name).config)
    taken: dict[str, Any] = {}
    if isinstance(asked.task, TypedTask) and not asked.task.given and configs:
        with problems.gather():
            _agreed("what is trained", {it.name: wording.task(it.task) for it in configs})
            taken["task"] = source_from(configs[0].task)
    with problems.gather():
        trained = describe_source(task_source(taken.get("task", asked.task)))
        for config in configs:
            if config.task != trained:
                here, there = wording.task(trained), wording.task(config.task)
                tell(
                    f"{here} is trained, as given, with settings of its own; the study "
                    f"{config.name!r} trained {there}, or other data of that name"
                )
        configs = [config for config in configs if config.task == trained]
    for key in ("epochs", "metric", *_SETTINGS) if configs else ():
        if "command" in configs[0].task and key in _SETTINGS:
            continue  # it has settings of its own
        values = {config.name: _value(config, key) for config in configs}
        if key not in asked.given:
            with problems.gather():
                taken[key] = _agreed(f"`{key}`", values)
            continue
        for name, value in values.items():
            given = str(getattr(asked, key))
            if given not in (str(value), str(value).partition(":")[0]):  # the metric's direction
                tell(f"{key} is {given}, as given; the study {name!r} has {value}")
    kept = {key: getattr(asked, key) for key in asked.given}
    return commands.Compare(**kept | {"task": asked.task, "recipes": asked.recipes} | taken)


def _agreed(what: str, values: Mapping[str, Any]) -> Any:
    """Returns the value that all studies have.

    Raises:
        InputError: they have different ones.
    """
    if len(set(values.values())) > 1:
        listed = " and ".join(f"{value} ({name})" for name, value in values.items())
        raise InputError(f"{what} must be given where the included studies differ: {listed}.")
    return next(iter(values.values()))


def _value(config: StudyConfig, key: str) -> Any:
    """Returns what a study has of an option of a comparison."""
    if key == "metric":
        return str(config.objective)
    return config.epochs if key == "epochs" else getattr(config.settings, key)


_SETTINGS = [option.name for option in options_of(TrainSettings) if option.name != "threads"]
"""How runs are trained; the number of threads is that of this machine."""


def _study(words: str) -> str:
    """Returns the study in `STUDY:RECIPE`."""
    return words.partition(":")[0]


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
