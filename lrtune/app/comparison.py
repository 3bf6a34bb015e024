"""The command `compare`, which trains given recipes as a study without a search."""

from dataclasses import replace

from lrtune.app.places import Places
from lrtune.app.results import recipe_of
from lrtune.app.studies import begun, check_facts, check_schedules, request_of, train_study
from lrtune.app.subjects import command_problems
from lrtune.core import commands
from lrtune.core.commands import takes
from lrtune.core.errors import InputError, Problems
from lrtune.core.recipe import NamedRecipe, length_problems
from lrtune.core.study import Budget, StudyConfig
from lrtune.decide.recommend import recommend
from lrtune.reporting.result import SearchResult
from lrtune.schedules.compress import compress
from lrtune.store.recipes import known_of, read_recipe, recipe_names
from lrtune.training.command.recording import First
from lrtune.tuning.engine import Engine as TrainingEngine


@takes(commands.Compare)
def compare(asked: commands.Compare) -> SearchResult:
    """Trains recipes side by side, seed by seed, and says which is best.

    The recommended recipes of the studies in `include` also take part: `"mine"` includes the best
    recipe of the study `mine`, `"mine:14"` that of its trial 14, and `"mine:simplest"` the simplest
    that may well be the best. Each recipe is trained for `epochs`; a recipe that says for how many
    epochs it is meant is scaled to them. It has one run with each of the `num_seeds` seeds that
    follow `seed`.

    Raises:
        LrtuneError: see `lrtune.core.errors`.
    """
    problems = Problems()
    asked = asked.sound(problems)
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
    for recipe in asked.recipes or recipe_names():
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
    for name in asked.include:
        with problems.gather():
            compared.append(_included(name, epochs, request.places))
    problems += command_problems(request.subject, {it.name: it.recipe for it in compared})
    if len(names := [named.name for named in compared]) > len(set(names)):
        problems.append(f"recipes must have different names, but got {', '.join(names)}.")
    if len(compared) < 2:
        problems.append(
            f"a comparison needs two recipes at least, but got {', '.join(names) or 'none'}."
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
