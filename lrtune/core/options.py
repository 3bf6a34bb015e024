"""Options: what a user may choose, each said once, as one field of a dataclass.

A field has a name, a type, a default, rules and a help text. The command line, the arguments of
`lrtune.search`, the checks, the stored study, a report's settings and the documentation's tables
are derived from it. A recipe and its decay are checked by the same rules.

    @dataclass(frozen=True, kw_only=True)
    class Repetition(Options):
        num_seeds: Annotated[int, at_least(1), Option("Runs of each recipe.", flag="--seeds")] = 3
"""

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from lrtune.core.errors import Problems, quoted

Rule = Callable[[str, Any], str]
"""From a field's name and its value to the rule that the value breaks; empty if it breaks none."""


LARGEST = 2**53
"""The largest whole number that every reader of JSON knows."""


def _not_too_large(name: str, value: float) -> str:
    return "" if value <= LARGEST else f"`{name} <= {LARGEST}` must hold"


def at_least(low: float) -> Rule:
    """`low <= value <= LARGEST`. NaN breaks this rule and the others."""

    def rule(name: str, value: float) -> str:
        return _not_too_large(name, value) if low <= value else f"`{low} <= {name}` must hold"

    return rule


def above(low: float, *, finite: bool = True) -> Rule:
    """`low < value <= LARGEST`; infinity keeps the rule, too, unless it must be finite."""

    def rule(name: str, value: float) -> str:
        if value == math.inf and not finite:
            return ""
        return _not_too_large(name, value) if low < value else f"`{low} < {name}` must hold"

    return rule


def within(low: float, high: float, ends: str = "[]") -> Rule:
    """A number of an interval.

    Args:
        low: lower end.
        high: upper end.
        ends: `[` or `]` for an end that is included, `(` or `)` for one that is not.
    """
    left, right = ("<=" if end in "[]" else "<" for end in ends)

    def rule(name: str, value: float) -> str:
        holds = low < value < high or (value, left) == (low, "<=") or (value, right) == (high, "<=")
        return "" if holds else f"`{low} {left} {name} {right} {high}` must hold"

    return rule


@dataclass(frozen=True)
class OneOf:
    """A rule: one of several words, which are looked up anew for each value."""

    words: Collection[str]

    def __call__(self, name: str, value: object) -> str:
        """The rule that the value breaks."""
        return "" if value in self.words else f"`{name}` must be one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Option:
    """What a user is told of an option, besides its name, its type and its rules."""

    help: str
    """One sentence; it names other options in backticks."""
    default: str = ""
    """The default in words, where its value does not say it: `the task's`."""
    flag: str = ""
    """On the command line; by default the name, with hyphens."""
    metavar: str = ""
    """What stands for its value in help: `N`, `NAME|FILE`."""
    label: str = ""
    """In a report's settings; by default the name, in words."""
    essential: bool = False
    """Whether `--help` shows it; `--help-all` shows every option."""
    python_only: bool = False
    """Whether it cannot be typed, as a function cannot."""
    is_url: bool = False
    """Whether it may be a URL, which may hold a password."""


@dataclass(frozen=True, kw_only=True)
class OptionField:
    """A field of a dataclass, with all that is known of it."""

    name: str
    kind: Any
    """Its type."""
    default: Any
    """`dataclasses.MISSING` where it must be given."""
    rules: tuple[Rule, ...]
    option: Option | None
    """`None`: it is not for users to choose."""
    topic: type["Options"]
    """The dataclass that defines it."""
    is_positional: bool
    """Whether it can be given without its name."""

    @property
    def flag(self) -> str:
        """Its name on the command line: `--batch-size`."""
        return (self.option and self.option.flag) or f"--{self.name.replace('_', '-')}"

    @property
    def label(self) -> str:
        """Its name in words: `Batch size`."""
        words = self.name.removeprefix("num_").replace("_", " ")
        return (self.option and self.option.label) or f"{words[0].upper()}{words[1:]}"

    @property
    def help(self) -> str:
        """What a user is told of it."""
        return self.option.help if self.option else ""

    @property
    def default_text(self) -> str:
        """Its default in words: the option's own words, or the value, after those of its topic."""
        if self.option and self.option.default:
            return self.option.default
        return ", else ".join(filter(None, (self.topic_default, in_words(self.default))))

    @property
    def topic_default(self) -> str:
        """What stands before the defaults of its topic: `the task's`; empty of most."""
        return str(vars(self.topic).get("default", ""))

    def text(self, value: Any) -> str:
        """A value in words: the default's own words, or the value itself."""
        own = self.option.default if self.option else ""
        return own if own and value == self.default else in_words(value)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that its type or a rule lists; empty where neither lists any."""
        literals = (kind for kind in alternatives(self.kind) if get_origin(kind) is Literal)
        listed = [word for kind in literals for word in get_args(kind)]
        ruled = [word for rule in self.rules if isinstance(rule, OneOf) for word in rule.words]
        return (*listed, *ruled)

    @cached_property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have."""
        return alternatives(self.kind)

    def broken_rule(self, value: Any) -> str:
        """The rule that a value breaks, in words; empty if it breaks none."""
        if not any(_is_a(value, kind) for kind in self.kinds):
            described = (_described(kind) for kind in self.kinds)
            return f"`{self.name}` must be {' or '.join(filter(None, described))}"
        if value is None:
            return ""
        return next((broken for rule in self.rules if (broken := rule(self.name, value))), "")


@cache
def fields_of(kind: type) -> tuple[OptionField, ...]:
    """The fields of a dataclass, in the order of its definition."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_field(item, hints[item.name], kind) for item in fields(kind))


def options_of(kind: type) -> tuple[OptionField, ...]:
    """The fields of a dataclass that are for users to choose."""
    return tuple(field for field in fields_of(kind) if field.option is not None)


def broken_rules(kind: type, values: Mapping[str, Any]) -> dict[str, str]:
    """A message by name for each value that breaks a rule of its field in a dataclass."""
    messages = {}
    for field in fields_of(kind):
        if field.name in values and (rule := field.broken_rule(value := values[field.name])):
            got = quoted(list(value) if isinstance(value, tuple) else value)
            if field.option and field.option.is_url:
                got = f"a {type(value).__name__}"
            messages[field.name] = f"{rule}, but got {got}."
    return messages


class Conflict(NamedTuple):
    """A rule between several options that does not hold."""

    names: tuple[str, ...]
    message: str
    """It says `jobs=` and `engine=ray` where `--jobs` and `--engine ray` may have been typed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one topic.

    Raises:
        InputError: every rule that they break.
    """

    title: ClassVar[str] = "Other options"
    """Heading of the topic in help and in the documentation."""
    default: ClassVar[str] = ""
    """What each of them has before its default, in words: `the task's`."""
    given: ClassVar[Any] = frozenset[str]()
    """Names of the options that were given, even if at their defaults."""

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Notes which options are given."""
        self = super().__new__(cls)
        if given:
            object.__setattr__(self, "given", frozenset(given))
        return self

    def __post_init__(self) -> None:
        self.sound(problems := Problems())
        problems.raise_any()

    def values(self, kind: type) -> dict[str, Any]:
        """The values of those options that another topic has, too."""
        names = [field.name for field in fields_of(kind)]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def conflicts(self) -> Iterator[Conflict]:
        """The rules between several options that do not hold.

        Each option keeps its own rules when this is asked.
        """
        yield from ()

    def sound(self, problems: Problems) -> Self:
        """Notes every rule that the options break, and returns options that can be worked with.

        Those that broke a rule have their defaults instead, so that what comes after can be checked
        and shown together with them. One that must be given is left as it is. No conflict is noted
        of an option that broke a rule, or whose default is not known here.
        """
        kind: type = type(self)
        broken = broken_rules(kind, vars(self))
        problems += broken.values()
        repaired = copy.copy(self)
        for field in fields_of(kind):
            if field.name in broken and field.default is not MISSING:
                object.__setattr__(repaired, field.name, field.default)
        unknown = broken.keys() | {
            field.name
            for field in fields_of(kind)
            if field.topic is not kind and field.topic_default and field.name not in self.given
        }
        problems += [
            conflict.message
            for conflict in repaired.conflicts()
            if not unknown & set(conflict.names)
        ]
        return repaired


def in_words(value: Any) -> str:
    """The value of an option for people: `yes`, `none`, `0.5`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", (), math.inf):
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a union is made of; any other type stands alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _field(item: Field[Any], hint: Any, kind: type) -> OptionField:
    hint, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return OptionField(
        name=item.name,
        kind=hint,
        default=item.default,
        rules=tuple(extra for extra in extras if callable(extra)),
        option=next((extra for extra in extras if isinstance(extra, Option)), None),
        topic=next(
            base for base in kind.__mro__ if item.name in vars(base).get("__annotations__", {})
        ),
        is_positional=not item.kw_only,
    )


def _is_a(value: object, kind: Any) -> bool:
    """Whether a value is of a type; whole numbers are numbers, and truth values are neither."""
    if kind is int or kind is float:
        numbers = int if kind is int else int | float  # JSON knows no others
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind is Any:
        return True
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:  # an array has no truth value when it is compared
        return isinstance(value, tuple(map(type, arguments))) and value in arguments
    if origin in (tuple, Sequence):
        items = value if isinstance(value, tuple | list) else ()
        is_list = isinstance(value, tuple | list)
        each = alternatives(arguments[0])
        return is_list and all(any(_is_a(item, kind) for kind in each) for item in items)
    if origin is Callable:
        return callable(value)
    return isinstance(value, origin or kind)


def _described(kind: Any) -> str:
    """A type in words."""
    words = {
        int: "a whole number", float: "a number", bool: "true or false", str: "text",
        Path: "a path", NoneType: "",
    }  # fmt: skip
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in words:
        return words[kind]
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin in (tuple, Sequence):
        each = filter(None, map(_described, alternatives(arguments[0])))
        plurals = {"a number": "numbers", "a whole number": "whole numbers"}
        return "a list of " + " or ".join(plurals.get(word, word) for word in each)
    if origin is Callable:
        return "a function"
    return f"a {kind.__name__}"
