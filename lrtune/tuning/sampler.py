"""Optuna as a function: the recipe of trial number n, given the study as recorded.

The study that Optuna sees is rebuilt in memory from the records for each question, and its sampler
is seeded by (study seed, trial number). So there is no second store to keep in step with ours, no
trial that stays RUNNING after a kill, and a search that was interrupted and resumed asks exactly
what an unbroken one would have asked.
"""

import copy
import hashlib
import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrtune.core.decays import Own, Plateau
from lrtune.core.errors import StoreError, first_line
from lrtune.core.recipe import TABLES, Recipe, default_recipe
from lrtune.core.space import SCALES, Choice, Interval, Parameter, Range, Space, Value, parse_space
from lrtune.core.study import StudyConfig, StudyState
from lrtune.core.urls import without
from lrtune.decide.trials import Trial, best_first, trials_of

optuna.logging.set_verbosity(optuna.logging.WARNING)

MAX_SEEN = 250
"""Trials that the sampler is shown: half of them the latest, the others the best. TPE tells at most
the best 25 from the rest (`default_gamma`), which are the same 25 so, and each question costs what
it copies."""
WORST = -1.0
"""Value of a trial that diverged or was pruned; below that of all others."""
NUM_CANDIDATES = 16
"""Suggestions for one trial; the first one that was not tried yet is taken."""
NUM_REPEATED = 2
"""Suggestions in a row that were tried before, after which chance looks for one that was not: the
sampler is sure of itself by then, and asking it takes long."""
AROUND = 30
"""The bounds of the peak LR of a command whose range test gave no signal: its own LR divided by
this, and times this."""
MIN_TRIALS_FOR_IMPORTANCES = 8
"""Trials; of one or two, PED-ANOVA gives every parameter the same share, whatever they
did."""

Branch = dict[str, tuple[str, Parameter]]
"""Parameter name, as Optuna sees it -> (key of the recipe or of its decay, what it may be)."""


def ask(state: StudyState, number: int) -> Recipe:
    """The recipe of trial `number`: the baseline, known good ones, then Optuna's suggestions.

    A suggestion knows the results of the first trials, `StudyConfig.num_seen` of them, and that the
    others are under way.
    """
    space = fitted_space(state)
    good = known_good(state, space)
    if number < len(good):
        return good[number]
    study = _in_memory(state, space, number)

    def suggest() -> Recipe:
        return _suggest(study.ask(), space, state.config.baseline)

    if (
        state.config.sampler == "qmc"
    ):  # its sequence is walked from the start; the others have no position
        for _ in range(number - len(good)):
            suggest()
    tried = {trial.recipe for trial in trials_of(state)[:number]}
    for count in range(1, NUM_CANDIDATES + 1):
        recipe = suggest()
        if recipe not in tried:
            break
        if count == NUM_REPEATED:
            study.sampler = optuna.samplers.RandomSampler(
                seed=_seed(f"{state.config.seed} repeated {number}")
            )
    return recipe


def fitted_space(state: StudyState) -> Space:
    """The study's space, in epochs, with the bounds that its range tests found."""
    intervals = {
        result.optimizer: result.interval for result in state.range_results if result.interval
    }
    config = state.config
    space = parse_space(config.space_toml, config.space_name, optimizer=config.baseline.optimizer)
    if not config.follows:
        space = space.without(Plateau.name)
    if "command" in config.task:
        space = space.monitoring(str(config.objective))
        peak_lr = config.baseline.peak_lr
        around = Interval(low=peak_lr / AROUND, high=peak_lr * AROUND, suggestion=peak_lr)
        intervals = {config.baseline.optimizer: around} | intervals
    return space.fit(config.epochs, intervals)


def known_good(state: StudyState, space: Space) -> list[Recipe]:
    """Recipes that are hard to beat.

    The baseline as it is, unless it is a command's own schedule, which is no recipe. Then, moved
    into the space: those that are to be tried, and three that the literature favours. These are a
    linear warmup of 5 % and a cosine; linear to zero (arXiv 2310.07831); WSD with a 1-sqrt cooldown
    of 20 % (arXiv 2405.18392).
    """
    baseline, epochs = state.config.baseline, state.config.epochs
    optimizers, decays = space.choices("optimizer"), space.choices("decay")
    own = [] if isinstance(baseline.decay, Own) else [baseline]
    own += [moved(recipe, space, state.config) for recipe in state.config.tried]
    wanted: list[tuple[str, dict[str, Any]]] = []
    suggestions = {r.optimizer: r.interval.suggestion for r in state.range_results if r.interval}
    for optimizer in optimizers:
        first = _fixed_scales(state.config)
        if optimizer in suggestions:
            first["peak_lr"] = suggestions[optimizer]
        wanted += [
            (
                optimizer,
                first | {"decay": "cosine", "warmup_epochs": 0.05 * epochs, "final_frac": 0.0},
            ),
            (
                optimizer,
                first | {"decay": "linear", "warmup_epochs": 0.05 * epochs, "final_frac": 0.0},
            ),
            (
                optimizer,
                first | {"decay": "wsd", "wsd.cooldown_frac": 0.2, "warmup_epochs": 0.05 * epochs},
            ),
        ]
    recipes = (
        _build(space, optimizer, str(values["decay"]), values, baseline)
        for optimizer, values in wanted
        if values["decay"] in decays
    )
    return list(dict.fromkeys([*own, *recipes]))


def moved(recipe: Recipe, space: Space, config: StudyConfig) -> Recipe:
    """The recipe of the space that is nearest to one whose optimizer and decay it has.

    What the space leaves open is as in all its recipes: see `_build`.
    """
    decay = {f"{recipe.decay.name}.{key}": value for key, value in recipe.decay.parameters.items()}
    values = _fixed_scales(config) | _plain(recipe) | decay
    return _build(space, recipe.optimizer, recipe.decay.name, values, config.baseline)


def _fixed_scales(config: StudyConfig) -> dict[str, Any]:
    """The scales of the parameter groups where no recipe says otherwise."""
    return {f"{SCALES}.{group.name}": group.lr_scale for group in config.groups}


def importances(state: StudyState) -> dict[str, float]:
    """Each parameter's share in what first looks came to (PED-ANOVA, arXiv 2304.10255).

    It is empty for too few trials.
    """
    if state.config.is_comparison:  # which has no space
        return {}
    sound = [trial for trial in trials_of(state) if trial.sound_at(1)]
    if len(sound) < MIN_TRIALS_FOR_IMPORTANCES:  # a comparison has none, and no space
        return {}
    space = fitted_space(state)
    trials = [trial for trial in sound if _is_of(space, trial.recipe)]
    if len(trials) < MIN_TRIALS_FOR_IMPORTANCES:
        return {}
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        recipe = moved(trial.recipe, space, state.config)
        kind = _kind(space, recipe.optimizer, recipe.decay.name)
        study.add_trial(_seen(recipe, kind, trial.scores[0]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError, ZeroDivisionError):  # all of the same value, say
        return {}
    return {name: share for name, share in shares.items() if share == share}


def mirror(state: StudyState, url: str) -> None:
    """Copies ended trials into an Optuna study of the same name, for Optuna's own tools.

    Trials that were copied before are left alone.

    Raises:
        StoreError: the database cannot be used.
    """
    space = fitted_space(state)
    try:
        study = optuna.create_study(
            study_name=state.config.name,
            storage=url,
            direction=_direction(state),
            load_if_exists=True,
        )
        copied = {
            trial.user_attrs.get("lrtune_trial") for trial in study.get_trials(deepcopy=False)
        }
        for trial in trials_of(state):
            if trial.level and trial.number not in copied and _is_of(space, trial.recipe):
                study.add_trial(_frozen(state, trial, space))
    except Exception as error:  # Optuna raises SQLAlchemy's errors, its own and built-in ones
        reason = without(url, first_line(error))
        raise StoreError(f"Optuna cannot use this database: {reason}") from None


def delete_mirror(name: str, url: str) -> None:
    """Deletes such a copy, where there is one.

    Raises:
        StoreError: Optuna cannot use the database.
    """
    try:
        storage = optuna.storages.RDBStorage(url, skip_table_creation=True)
        optuna.delete_study(study_name=name, storage=storage)
    except (KeyError, optuna.exceptions.StorageInternalError):  # no such study, no tables
        return
    except Exception as error:
        reason = without(url, first_line(error))
        raise StoreError(f"Optuna cannot use this database: {reason}") from None


def _in_memory(state: StudyState, space: Space, number: int) -> optuna.Study:
    """The trials with what is known of them: the first look at each, as its place by score.

    Those whose result is not seen are RUNNING, and the constant liar keeps away from them.
    """
    study = optuna.create_study(direction="maximize", sampler=_sampler(state, number))
    trials = trials_of(state)[:number]
    known = trials[: state.config.num_seen(number)]
    sound = [trial for trial in known if trial.sound_at(1)]
    scores = sorted(trial.scores[0] for trial in sound)
    numbers = {trial.number for trial in trials[-MAX_SEEN // 2 :]}
    for trial in best_first(sound, level=1)[: MAX_SEEN - len(numbers)]:
        numbers.add(trial.number)
    kinds: dict[tuple[str, str], _Kind] = {}
    for trial in trials:
        recipe = trial.recipe
        if trial.number == 0 and recipe == state.config.baseline:
            if not _is_of(space, recipe):
                continue
            recipe = moved(recipe, space, state.config)
        if trial.number not in numbers:
            continue
        kind = (recipe.optimizer, recipe.decay.name)
        if kind not in kinds:
            kinds[kind] = _kind(space, *kind)
        value: float | None = None
        if trial.number < len(known):
            score = trial.scores[0]
            value = bisect_left(scores, score) / len(scores) if trial.sound_at(1) else WORST
        study.add_trial(_seen(recipe, kinds[kind], value))
    return study


def _is_of(space: Space, recipe: Recipe) -> bool:
    """Whether a space has a recipe's optimizer and decay."""
    has_optimizer = recipe.optimizer in space.choices("optimizer")
    return has_optimizer and recipe.decay.name in space.choices("decay")


@dataclass(frozen=True)
class _Kind:
    """What trials of one optimizer and one decay are made of, as Optuna sees it."""

    keys: Mapping[str, str]
    distributions: dict[str, BaseDistribution]

    def params(self, recipe: Recipe) -> dict[str, Any]:
        """A recipe's values."""
        return {name: _to_optuna(_value_of(recipe, name, key)) for name, key in self.keys.items()}


def _kind(space: Space, optimizer: str, decay: str) -> _Kind:
    branch = _branch(space, optimizer, decay)
    return _Kind(
        keys={name: key for name, (key, _) in branch.items()},
        distributions={name: _distribution(parameter) for name, (_, parameter) in branch.items()},
    )


class _Seen(FrozenTrial):
    """A trial that is over.

    A study copies what is added to it deeply, which took most of the time of an answer.
    """

    def __deepcopy__(self, memo: object) -> "_Seen":
        return copy.copy(self)


def _seen(recipe: Recipe, kind: _Kind, value: float | None) -> FrozenTrial:
    """A trial as the sampler sees it; one without a value is under way."""
    state, now = TrialState.RUNNING if value is None else TrialState.COMPLETE, datetime.now()
    return _Seen(
        number=-1, trial_id=-1, state=state, value=value, datetime_start=now,
        datetime_complete=now if state.is_finished() else None, params=kind.params(recipe),
        distributions=kind.distributions, user_attrs={}, system_attrs={}, intermediate_values={},
    )  # fmt: skip


def _sampler(state: StudyState, number: int) -> optuna.samplers.BaseSampler:
    name = state.config.sampler
    # QMC takes its position from the study, so its scrambling must stay the same throughout.
    words = f"{state.config.seed} {name}" + ("" if name == "qmc" else f" {number}")
    seed = _seed(words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, group=True, constant_liar=True
                )
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "qmc":
                return optuna.samplers.QMCSampler(
                    seed=seed, scramble=True, warn_independent_sampling=False
                )


def _seed(words: str) -> int:
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")


def _direction(state: StudyState) -> StudyDirection:
    """The objective's direction in Optuna's words."""
    return StudyDirection[f"{state.config.objective.direction.upper()}IMIZE"]


def _frozen(state: StudyState, trial: Trial, space: Space) -> FrozenTrial:
    """A trial as Optuna's own tools see it: with the value of its first run, or else pruned.

    Its parameters are read back from the recipe, so they are stored once.
    """
    recipe, first = moved(trial.recipe, space, state.config), trial.runs[0]
    kind = _kind(space, recipe.optimizer, recipe.decay.name)
    ended = TrialState.COMPLETE if first.state == "completed" else TrialState.PRUNED
    if first.state == "failed":
        ended = TrialState.FAIL
    value = state.config.objective.value(first.metrics)
    is_pruned = ended is TrialState.PRUNED and not math.isnan(value)
    return create_trial(
        state=ended,
        value=value if ended is TrialState.COMPLETE else None,
        params=kind.params(recipe),
        distributions=kind.distributions,
        intermediate_values={first.epochs: value} if is_pruned else {},
        user_attrs={
            "lrtune_trial": trial.number,
            "recipe": trial.recipe.label,
            "epochs": first.epochs,
            "reason": first.reason,
        },
    )


def _suggest(trial: optuna.Trial, space: Space, baseline: Recipe) -> Recipe:
    """Asks Optuna for each parameter of the branch that it chose."""
    optimizer, decay = (
        str(_asked(trial, kind, space.parameters[kind]))
        if len(space.choices(kind)) > 1
        else space.choices(kind)[0]
        for kind in ("optimizer", "decay")
    )
    branch = _branch(space, optimizer, decay)
    values = {name: _asked(trial, name, parameter) for name, (_, parameter) in branch.items()}
    return _build(space, optimizer, decay, values, baseline)


def _asked(trial: optuna.Trial, name: str, parameter: Parameter) -> Value:
    match parameter:
        case Choice(choices=choices):
            word = trial.suggest_categorical(name, [_to_optuna(choice) for choice in choices])
            return next(choice for choice in choices if _to_optuna(choice) == word)
        case Range(low=low, high=high, step=step) if _whole(parameter):
            return trial.suggest_int(name, int(low), int(high), step=int(step or 1))
        case Range(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, log=log, step=step)
    raise AssertionError(f"{parameter!r} does not vary")


def _branch(space: Space, optimizer: str, decay: str) -> Branch:
    """The parameters that vary once optimizer and decay are chosen, those two included."""
    branch: Branch = {}
    for kind in ("optimizer", "decay"):
        if len(space.choices(kind)) > 1:
            branch[kind] = (kind, space.parameters[kind])
    own = space.optimizers.get(optimizer, {})
    several = len(space.choices("optimizer")) > 1
    for key in dict.fromkeys((*space.parameters, *own)):
        if key not in ("optimizer", "decay"):
            name = f"{optimizer}.{key}" if key in own and several else key
            branch[name] = (key, own.get(key, space.parameters.get(key)))
    for key, parameter in space.decays.get(decay, {}).items():
        branch[f"{decay}.{key}"] = (key, parameter)
    return {name: entry for name, entry in branch.items() if isinstance(entry[1], Choice | Range)}


def _build(
    space: Space, optimizer: str, decay: str, values: Mapping[str, Any], baseline: Recipe
) -> Recipe:
    """A recipe of the space.

    What varies is taken from `values`, and what is fixed from the space. `values` are looked up by
    full name (`adamw.peak_lr`, `step.factor`) and then by key. Settings
    of the optimizer that the space leaves open are the baseline's where that has the same one, and
    else customary.
    """
    defaults = baseline if baseline.optimizer == optimizer else default_recipe(optimizer)
    own = space.optimizers.get(optimizer, {})
    fields: dict[str, Any] = {
        "momentum": defaults.momentum, "nesterov": defaults.nesterov,
        "weight_decay": defaults.weight_decay,
    }  # fmt: skip
    tables: dict[str, dict[str, Any]] = {name: dict(getattr(baseline, name)) for name in TABLES}
    for key in dict.fromkeys((*space.parameters, *own)):
        if key in ("optimizer", "decay"):
            continue
        wanted = values.get(f"{optimizer}.{key}", values.get(key))
        value = _in_space(own.get(key, space.parameters.get(key)), wanted)
        table, _, name = key.partition(".")
        if name:
            tables[table][name] = value
        else:
            fields[key] = value
    parts: dict[str, Any] = {"name": decay}
    for key, parameter in space.decays.get(decay, {}).items():
        parts[key] = _in_space(parameter, values.get(f"{decay}.{key}"))
    return Recipe.from_dict(fields | {"optimizer": optimizer, "decay": parts} | tables)


def _in_space(parameter: Parameter | None, value: Any) -> Any:
    """The value of the parameter that is nearest to `value`; its middle where that is `None`."""
    match parameter:
        case Choice():
            return value if value in parameter.choices else parameter.choices[0]
        case Range():
            if value is None:
                value = (
                    (parameter.low * parameter.high) ** 0.5
                    if parameter.log
                    else (parameter.low + parameter.high) / 2
                )
            value = min(max(value, parameter.low), parameter.high)
            if parameter.step is not None:
                steps = round((value - parameter.low) / parameter.step)
                value = parameter.low + steps * parameter.step
                value = min(value, parameter.high)
            return int(value) if _whole(parameter) else float(value)
        case _:
            return parameter


def _distribution(parameter: Parameter) -> BaseDistribution:
    match parameter:
        case Choice():
            return CategoricalDistribution([_to_optuna(choice) for choice in parameter.choices])
        case Range() if _whole(parameter):
            return IntDistribution(
                int(parameter.low), int(parameter.high), step=int(parameter.step or 1)
            )
        case Range():
            return FloatDistribution(
                parameter.low, parameter.high, log=parameter.log, step=parameter.step
            )
    raise AssertionError(f"{parameter!r} does not vary")


def _whole(parameter: Range) -> bool:
    return parameter.step is not None and all(
        isinstance(v, int) for v in (parameter.low, parameter.high, parameter.step)
    )


def _value_of(recipe: Recipe, name: str, key: str) -> Any:
    if name == "decay":
        return recipe.decay.name
    table, _, entry = key.partition(".")
    if entry:
        return dict(getattr(recipe, table))[entry]
    return getattr(recipe.decay if name.startswith(f"{recipe.decay.name}.") else recipe, key)


def _to_optuna(value: Any) -> Any:
    """A list of milestones is a category of Optuna's by its text."""
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else value


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe, each entry of its tables a value of its own."""
    values = {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}
    tables = {table: values.pop(table) for table in TABLES}
    return values | {
        f"{table}.{name}": value for table, pairs in tables.items() for name, value in pairs
    }
