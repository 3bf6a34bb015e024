"""The search space: what may vary, read from TOML, checked, and fitted to a run's length.

A parameter is a plain value (it does not vary), `{ choices = [...] }`, or `{ low, high }` with `log
= true` or a `step`. Lengths may be given in percent of the run: `high = "25%"`. `peak_lr =
"range-test"` takes the interval that the range test finds.

    description = "..."

    [parameters]                    # of every recipe
    optimizer = { choices = ["sgd", "adamw"] }
    peak_lr = "range-test"
    decay = { choices = ["cosine", "plateau"] }

    [decay.plateau]                 # only where this decay was chosen
    patience_epochs = { low = 1, high = 4 }

    [optimizer.adamw]               # only where this optimizer was chosen; goes before [parameters]
    weight_decay = 0.01

A named parameter group's LR as a multiple of the peak LR is a parameter, too:

    [parameters]
    group_scales.backbone = { low = 0.01, high = 1.0, log = true }

And so is what stands in the place of `{batch_size}` in a training command:

    [command]
    batch_size = { choices = [64, 128] }     # the first of them in the command as it is

A space that names no optimizer is searched with the one that its user has, and one that names no
decay with the cosine.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

from lrtune.core.decays import DECAYS, Plateau, decay_parameters, is_length, missing_parameters
from lrtune.core.documents import parse_document
from lrtune.core.errors import InputError
from lrtune.core.optimizers import OPTIMIZERS, OWN, WIDEST
from lrtune.core.options import broken_rules, fields_of
from lrtune.core.recipe import Recipe
from lrtune.core.sources import PLACEHOLDERS

Scalar = float | int | str | bool
Value = Scalar | tuple[float, ...]

TRIAL_EPOCHS = 10**6
"""Long enough that only what is impossible at any length is a problem of a space by itself."""
MOST_POINTS = 10**9
"""Points of a grid."""
SCALES = "group_scales"
COMMAND = "command"
_RECIPE_KEYS = tuple(f.name for f in fields(Recipe) if f.name != COMMAND)
_SCALE, _PLACEHOLDER = f"{SCALES}.", f"{COMMAND}."
"""What the key of a named parameter group's scale begins with: `group_scales.backbone`. And that of
a placeholder in a training command: `command.batch_size`."""


@dataclass(frozen=True)
class Percent:
    """A length in percent of the run."""

    value: float

    def of(self, epochs: int, *, whole: bool) -> float:
        """The length in epochs.

        With `whole` it is rounded to whole epochs, and at least 1 for more than 0 %.
        """
        length = round(self.value / 100 * epochs, 9)  # 10 % of 7 is 0.7, and not 0.7000000000000001
        return max(int(self.value > 0), round(length)) if whole else length


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    choices: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    """Grid width; `None`: continuous."""


@dataclass(frozen=True)
class RangeTest:
    """The interval that the range test finds for the optimizer."""


Parameter = Value | Choice | Range | RangeTest
Table = Mapping[str, Any]  # of Parameter; of Percent too until the space is fitted


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Peak LRs worth trying, and the one to begin with."""

    low: float
    high: float
    suggestion: float


@dataclass(frozen=True, kw_only=True)
class Space:
    """A validated search space."""

    source: str
    """Its file, for messages, or the name of one that comes with lrtune."""
    description: str = ""
    parameters: Table
    decays: Mapping[str, Table] = field(default_factory=dict)
    optimizers: Mapping[str, Table] = field(default_factory=dict)

    def choices(self, key: str) -> tuple[str, ...]:
        """What `optimizer` or `decay` may be."""
        parameter = self.parameters[key]
        return (
            tuple(map(str, parameter.choices))
            if isinstance(parameter, Choice)
            else (str(parameter),)
        )

    def parameter(self, key: str, optimizer: str) -> Parameter | None:
        """Parameter `key` of recipes with `optimizer`, or `None`."""
        own = self.optimizers.get(optimizer, {})
        parameter: Parameter | None = own.get(key, self.parameters.get(key))
        return parameter

    @property
    def scaled_groups(self) -> tuple[str, ...]:
        """Names of the parameter groups whose scale it sets or varies."""
        tables = (self.parameters, *self.optimizers.values())
        keys = dict.fromkeys(key for table in tables for key in table if key.startswith(_SCALE))
        return tuple(key.removeprefix(_SCALE) for key in keys)

    @property
    def monitors(self) -> tuple[str, ...]:
        """What its plateaus may monitor."""
        own = self.decays.get(Plateau.name, {}).get("monitor", ())
        monitors = own.choices if isinstance(own, Choice) else (own,) if own else ()
        return tuple(map(str, monitors))

    def without(self, decay: str) -> "Space":
        """The space without a decay.

        Raises:
            InputError: it has no other one.
        """
        choices = tuple(name for name in self.choices("decay") if name != decay)
        if not choices:
            raise InputError(f"{self.source}: no decay is left without {decay}.")
        decays = {name: table for name, table in self.decays.items() if name != decay}
        chosen = Choice(choices) if len(choices) > 1 else choices[0]
        return replace(self, parameters={**self.parameters, "decay": chosen}, decays=decays)

    def monitoring(self, objective: str) -> "Space":
        """The space whose plateaus monitor an objective, unless it says what they monitor."""
        if Plateau.name not in self.choices("decay") or self.monitors:
            return self
        table = {**self.decays.get(Plateau.name, {}), "monitor": objective}
        return replace(self, decays={**self.decays, Plateau.name: table})

    @property
    def needs_range_test(self) -> tuple[str, ...]:
        """The optimizers whose peak LR is bounded by a range test."""
        return tuple(
            name
            for name in self.choices("optimizer")
            if isinstance(self.parameter("peak_lr", name), RangeTest)
        )

    def fit(self, epochs: int, intervals: Mapping[str, Interval]) -> "Space":
        """Returns the space with percentages as epochs and `range-test` as intervals.

        An optimizer without an interval, because its range test gave no signal, gets the bounds in
        `OPTIMIZERS`.

        Raises:
            InputError: the space does not go with `epochs`, every reason listed.
        """
        problems: list[str] = []

        def fit_table(where: str, table: Table, kind: type = Recipe) -> dict[str, Any]:
            fitted = {
                key: _in_epochs(value, epochs, whole=_is_whole(kind, key))
                for key, value in table.items()
            }
            if kind is not Plateau:  # its lengths are waits, which may outlast the run
                problems.extend(_too_long(f"{self.source}: {where}", fitted, epochs))
            problems.extend(_impossible_ranges(f"{self.source}: {where}", fitted))
            return fitted

        optimizers = {
            name: fit_table(f"[optimizer.{name}]", table) for name, table in self.optimizers.items()
        }
        for optimizer in self.needs_range_test:
            if interval := intervals.get(optimizer):
                low, high = interval.low, interval.high
            else:
                facts = OPTIMIZERS.get(optimizer)
                low, high = facts.searched if facts else WIDEST
            optimizers.setdefault(optimizer, {})["peak_lr"] = Range(low, high, log=True)
        fitted = replace(
            self,
            parameters=fit_table("[parameters]", self.parameters),
            decays={
                name: fit_table(f"[decay.{name}]", table, DECAYS[name])
                for name, table in self.decays.items()
            },
            optimizers=optimizers,
        )
        if not problems:  # milestones in epochs and in percent may have changed places
            problems = [
                f"{self.source}: {where}: {what}" for where, what in _semantic_problems(fitted)
            ]
        if problems:
            raise InputError(problems)
        return fitted


def parse_space(text: str, source: str, *, optimizer: str | None = "sgd") -> Space:
    """A space from TOML.

    Args:
        text: the TOML document.
        source: file name, for messages.
        optimizer: what a space that names no optimizer searches with: its user's own. `None` where
            that is not known yet.

    Raises:
        InputError: every rule that the document breaks, each with file and key.
    """
    document = parse_document(text, source)
    problems: list[str] = []

    def problem(where: str, what: str) -> None:
        problems.append(f"{source}: {where}: {what}")

    def table_of(
        where: str, value: object, allowed: tuple[str, ...], kind: type = Recipe
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            problem(where, f"must be a table, but got {value!r}.")
            return {}
        read: dict[str, Any] = {}
        for key, entry in _with_scales(value):
            if key == SCALES and SCALES in allowed:
                problem(f"{where} {key}", f"must be a table, but got {entry!r}.")
                continue
            if key not in allowed and not (SCALES in allowed and key.startswith(_SCALE)):
                problem(f"{where} {key}", f"unknown key; known here: {', '.join(allowed)}.")
                continue
            try:
                read[key] = _parameter(key, entry, whole=_is_whole(kind, key))
            except ValueError as error:
                problem(f"{where} {key}", str(error))
        return read

    known = ("description", "parameters", "decay", "optimizer", COMMAND)
    for key in sorted(document.keys() - set(known)):
        problem(key, f"unknown key; known here: {', '.join(known)}.")
    if "parameters" not in document:
        problem("[parameters]", "is missing.")
    given_parameters = table_of("[parameters]", document.get("parameters", {}), _RECIPE_KEYS)
    parameters = {"optimizer": optimizer or OWN, "decay": "cosine"} | given_parameters
    placeholders = _placeholders(document.get(COMMAND, {}), problem)
    parameters |= {f"{_PLACEHOLDER}{name}": value for name, value in placeholders.items()}
    space = Space(source=source, parameters=parameters)
    tables: dict[str, dict[str, dict[str, Any]]] = {"decay": {}, "optimizer": {}}
    for topic, names in (
        ("decay", tuple(DECAYS)),
        ("optimizer", tuple(dict.fromkeys((*OPTIMIZERS, optimizer or OWN)))),
    ):
        for name in space.choices(topic):
            if name not in names:
                problem(
                    f"[parameters] {topic}", f"must be one of {', '.join(names)}, but got {name!r}."
                )
        given = document.get(topic, {})
        if not isinstance(given, dict):
            problem(topic, f"must be a table, but got {given!r}.")
            continue
        for name, entry in given.items():
            where = f"[{topic}.{name}]"
            if name not in names:
                problem(where, f"no such {topic}; there are {', '.join(names)}.")
                continue
            is_known = topic == "decay" or optimizer is not None
            if name not in space.choices(topic) and is_known:
                problem(
                    where,
                    f"{topic} {name!r} is not among the choices of [parameters] {topic}: nothing "
                    "would use it.",
                )
            if topic == "decay":
                table = table_of(where, entry, decay_parameters(name), DECAYS[name])
            else:
                own = tuple(key for key in _RECIPE_KEYS if key not in ("decay", "optimizer"))
                table = table_of(where, entry, own)
            tables[topic][name] = table
    space = replace(
        space,
        description=str(document.get("description", "")),
        decays=tables["decay"],
        optimizers=tables["optimizer"],
    )
    if not problems:  # the rest makes sense only for a document that is well formed
        for where, what in _semantic_problems(space):
            problem(where, what)
    if problems:
        raise InputError(problems)
    return space


def first_values(text: str) -> Mapping[str, float | int | str]:
    """What a space fills the placeholders of a command with where the command is as it is.

    It is the first of several values, and the lower end of a range. What is wrong with the space is
    not told here.

    Args:
        text: its TOML document.
    """
    try:
        document = parse_document(text, "")
    except InputError:
        return {}
    placeholders = _placeholders(document.get(COMMAND, {}), lambda *_: None)
    return {name: _extremes(parameter)[0] for name, parameter in placeholders.items()}


def _placeholders(table: object, problem: Callable[[str, str], None]) -> dict[str, Any]:
    """What a space says of the placeholders of a command, by name."""
    if not isinstance(table, dict):
        problem(f"[{COMMAND}]", f"must be a table, but got {table!r}.")
        return {}
    read = {}
    for key, entry in table.items():
        if key in PLACEHOLDERS:
            problem(f"[{COMMAND}] {key}", f"{{{key}}} is filled in by lrtune.")
            continue
        if not key.isidentifier():
            problem(f"[{COMMAND}] {key}", "must be a name of letters, digits and underscores.")
            continue
        counts = isinstance(entry, dict) and isinstance(entry.get("low"), int)
        try:
            read[key] = _parameter(key, entry, whole=counts)
        except ValueError as error:
            problem(f"[{COMMAND}] {key}", str(error))
    return read


def _with_scales(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a table, each scale of a parameter group an entry of its own."""
    for key, entry in table.items():
        if key == SCALES and isinstance(entry, dict):
            yield from ((f"{_SCALE}{name}", scale) for name, scale in entry.items())
        else:
            yield key, entry


def _is_whole(kind: type, key: str) -> bool:
    """Whether a parameter of a recipe or a decay is a whole number."""
    return any(field.name == key and field.kind is int for field in fields_of(kind))


def _parameter(key: str, entry: object, *, whole: bool) -> Any:
    """One entry of a table. Raises ValueError with the rule that it breaks."""
    if entry == "range-test" and key == "peak_lr":
        return RangeTest()
    if not isinstance(entry, dict):
        return _value(key, entry)
    if "choices" in entry:
        if (
            set(entry) != {"choices"}
            or not isinstance(entry["choices"], list)
            or not entry["choices"]
        ):
            raise ValueError(
                "`choices` must be a list of at least one value, and stand alone, but got "
                f"{entry!r}."
            )
        return Choice(tuple(_value(key, value) for value in entry["choices"]))
    if not {"low", "high"} <= set(entry) <= {"low", "high", "log", "step"}:
        raise ValueError(
            "must be a value, {choices}, or {low, high} with `log` or `step`, but got "
            f"{entry!r}."
        )
    low, high = (_value(key, entry[end]) for end in ("low", "high"))
    log, step = entry.get("log", False), entry.get("step")
    for end, value in (("low", low), ("high", high)):
        if isinstance(value, str | bool | tuple):
            raise ValueError(f"`{end}` must be a number, but got {entry[end]!r}.")
    if not isinstance(log, bool):
        raise ValueError(f"`log` must be true or false, but got {log!r}.")
    is_number = isinstance(step, int | float) and not isinstance(step, bool)
    if step is not None and (not is_number or step <= 0 or log):
        raise ValueError(f"`0 < step` must hold, without `log`, but got step={step!r}, log={log}.")
    if whole and (
        log or not all(isinstance(value, int | Percent) for value in (low, high, step or 1))
    ):
        counts = "counts whole epochs" if is_length(key) else "must be a whole number"
        raise ValueError(f"`{key}` {counts}, without `log`, but got {entry!r}.")
    if not isinstance(low, Percent) and not isinstance(high, Percent):
        if not low <= high:
            raise ValueError(f"`low <= high` must hold, but got low={low}, high={high}.")
        if log and not low > 0:
            raise ValueError(f"`0 < low` must hold with `log`, but got low={low}.")
    first, last = (
        end.of(TRIAL_EPOCHS, whole=False) if isinstance(end, Percent) else end
        for end in (low, high)
    )
    if step is not None and last - first > step * MOST_POINTS:
        raise ValueError(
            f"a grid must have at most {MOST_POINTS} points, but got low={entry['low']}, "
            f"high={entry['high']}, step={step}."
        )
    return Range(low, high, log, 1 if step is None and whole else step)


def _value(key: str, value: object) -> Any:
    if isinstance(value, str) and value.endswith("%"):
        if not is_length(key):
            raise ValueError(f"only lengths in epochs may be in percent, but got {value!r}.")
        try:
            percent = float(value[:-1])
        except ValueError:
            raise ValueError(f"must be a percentage such as '25%', but got {value!r}.") from None
        if not 0 <= percent <= 100:
            raise ValueError(f"`0% <= {key} <= 100%` must hold, but got {value!r}.")
        return Percent(percent)
    if isinstance(value, list):
        return tuple(_value(key, v) for v in value)
    if isinstance(value, float | int | str):
        return value
    raise ValueError(f"must be a number, a word or a list of numbers, but got {value!r}.")


def _in_epochs(value: Any, epochs: int, *, whole: bool) -> Any:
    match value:
        case Percent():
            return value.of(epochs, whole=whole)
        case tuple():
            return tuple(_in_epochs(v, epochs, whole=whole) for v in value)
        case Choice():
            fitted = (_in_epochs(v, epochs, whole=whole) for v in value.choices)
            return Choice(
                tuple(dict.fromkeys(fitted))
            )  # two percentages may come to the same whole epoch
        case Range():
            low, high = (_in_epochs(end, epochs, whole=whole) for end in (value.low, value.high))
            if (
                value.step is not None and low <= high
            ):  # the last point of the grid, as Optuna wants it
                num_steps = math.floor((high - low) / value.step + 1e-9)
                high = round(
                    low + num_steps * value.step, 12
                )  # it reckons in decimals: 0.1 + 6 * 0.1 is 0.7
            return replace(value, low=low, high=high)
        case _:
            return value


def _too_long(where: str, table: Table, epochs: int) -> Iterator[str]:
    """Lengths that leave nothing of the run."""
    for key in sorted(filter(is_length, table)):
        longest = max(_flat(table[key]))
        if not longest < epochs:
            rule = f"`{key} < epochs` must hold"
            yield f"{where} {key}: {rule}, but got {key}={longest:g} with {epochs} epochs."


def _impossible_ranges(where: str, table: Table) -> Iterator[str]:
    """Ranges that have become impossible in epochs."""
    for key, value in table.items():
        if isinstance(value, Range) and not value.low <= value.high:
            got = f"low={value.low:g}, high={value.high:g}"
            yield f"{where} {key}: `low <= high` must hold, but got {got}."
        if isinstance(value, Range) and value.log and not value.low > 0:
            yield f"{where} {key}: `0 < low` must hold with `log`, but got low={value.low:g}."


def _flat(value: Any) -> Iterator[float]:
    match value:
        case Range():
            yield from (value.low, value.high)
        case Choice():
            for choice in value.choices:
                yield from _flat(choice)
        case tuple():
            for item in value:
                yield from _flat(item)
        case _:
            yield float(value)


def _semantic_problems(space: Space) -> Iterator[tuple[str, str]]:
    """Broken rules of recipes at both ends of every parameter, and missing parameters."""
    for optimizer in space.choices("optimizer"):
        if space.parameter("peak_lr", optimizer) is None:
            yield (
                "[parameters] peak_lr",
                f'is missing for {optimizer}: give a range, or "range-test".',
            )
    for name in space.choices("decay"):
        for key in sorted(missing_parameters(name, space.decays.get(name, {}))):
            yield f"[decay.{name}] {key}", "is missing."
    optimizers = space.choices("optimizer")
    tables = [("[parameters]", space.parameters)]
    tables += [(f"[optimizer.{name}]", table) for name, table in space.optimizers.items()]
    for where, table in tables:
        for key, parameter in table.items():
            if key in ("optimizer", "decay"):
                continue
            values = _extremes(_in_epochs(parameter, TRIAL_EPOCHS, whole=_is_whole(Recipe, key)))
            users = [name for name in optimizers if space.parameter(key, name) is parameter]
            for optimizer, value in product(users, values):
                field, _, name = key.partition(".")
                own = {field: ((name, value),)} if name else {key: value}
                try:
                    Recipe(optimizer=optimizer, **own)
                except InputError as error:
                    place = f"[{COMMAND}] {name}" if field == COMMAND else f"{where} {key}"
                    for line in error.problems:
                        yield place, line
                    break
    for name, table in space.decays.items():
        for key, parameter in table.items():
            whole = _is_whole(DECAYS[name], key)
            for value in _extremes(_in_epochs(parameter, TRIAL_EPOCHS, whole=whole)):
                if broken := broken_rules(DECAYS[name], {key: value}):
                    yield f"[decay.{name}] {key}", broken[key]
                    break


def _extremes(parameter: Any) -> tuple[Any, ...]:
    match parameter:
        case RangeTest():
            return ()
        case Choice():
            return parameter.choices
        case Range():
            whole = (
                parameter.step is not None
                and float(parameter.step).is_integer()
                and float(parameter.low).is_integer()
            )
            return tuple(int(end) if whole else end for end in (parameter.low, parameter.high))
        case _:
            return (parameter,)
