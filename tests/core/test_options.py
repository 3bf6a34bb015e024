"""The mechanism of options: types, rules, conflicts, and what is derived from a field."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from lrtune.core.errors import InputError, Problems
from lrtune.core.options import (
    Conflict,
    OneOf,
    Option,
    Options,
    above,
    at_least,
    broken_rules,
    fields_of,
    in_words,
    options_of,
    within,
)

WORDS = {"red": 1, "blue": 2}


@dataclass(frozen=True, kw_only=True)
class Paint(Options):
    title: ClassVar[str] = "Paint"

    num_coats: Annotated[int, at_least(1), Option("Coats.", flag="--coats", metavar="N")] = 2
    thickness_mm: Annotated[float, above(0), Option("Thickness.", label="Thickness, mm")] = 0.5
    gloss: Annotated[float | None, within(0, 1), Option("Gloss.", default="as it comes")] = None
    finish: Annotated[Literal["matt", "satin"], Option("Finish.", essential=True)] = "matt"
    colour: Annotated[str, OneOf(WORDS), Option("Colour.")] = "red"
    is_wet: Annotated[bool, Option("Still wet.")] = False
    layers: Annotated[Sequence[str | Path], Option("Layers.")] = ()
    stops: Annotated[tuple[float, ...], Option("Stops.")] = ()
    told: Annotated[Callable[[int], None] | None, Option("Told.", python_only=True)] = None
    notes: Any = None

    def conflicts(self) -> Iterator[Conflict]:
        yield from super().conflicts()
        if self.finish == "matt" and self.gloss:
            yield Conflict(("finish", "gloss"), "`finish=matt` does not go with `gloss=`.")


# a value of a field, and the message
BROKEN = [
    ("num_coats", 0, "`1 <= num_coats` must hold, but got 0."),
    ("num_coats", 1.0, "`num_coats` must be a whole number, but got 1.0."),
    ("num_coats", True, "`num_coats` must be a whole number, but got True."),
    ("num_coats", None, "`num_coats` must be a whole number, but got None."),
    ("num_coats", "many", "`num_coats` must be a whole number, but got 'many'."),
    ("thickness_mm", 0, "`0 < thickness_mm` must hold, but got 0."),
    ("thickness_mm", math.inf, "`thickness_mm <= 9007199254740992` must hold, but got inf."),
    ("thickness_mm", math.nan, "`0 < thickness_mm` must hold, but got nan."),
    ("thickness_mm", "thin", "`thickness_mm` must be a number, but got 'thin'."),
    ("gloss", 1.5, "`0 <= gloss <= 1` must hold, but got 1.5."),
    ("gloss", math.nan, "`0 <= gloss <= 1` must hold, but got nan."),
    ("gloss", "high", "`gloss` must be a number, but got 'high'."),
    ("finish", "rough", "`finish` must be one of matt, satin, but got 'rough'."),
    ("finish", ["matt"], "`finish` must be one of matt, satin, but got ['matt']."),
    ("colour", "green", "`colour` must be one of red, blue, but got 'green'."),
    ("colour", 3, "`colour` must be text, but got 3."),
    ("is_wet", "yes", "`is_wet` must be true or false, but got 'yes'."),
    ("is_wet", 1, "`is_wet` must be true or false, but got 1."),
    ("layers", "primer", "`layers` must be a list of text or a path, but got 'primer'."),
    ("layers", (1,), "`layers` must be a list of text or a path, but got [1]."),
    ("stops", (1, "2"), "`stops` must be a list of numbers, but got [1, '2']."),
    ("told", 3, "`told` must be a function, but got 3."),
]


@pytest.mark.parametrize(("name", "value", "message"), BROKEN)
def test_a_value_that_breaks_a_rule(name, value, message):
    assert broken_rules(Paint, {name: value}) == {name: message}
    with pytest.raises(InputError) as caught:
        Paint(**{name: value})
    assert caught.value.problems == (message,)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_coats", 1), ("thickness_mm", 1), ("gloss", 0), ("gloss", None),
     ("finish", "satin"), ("colour", "blue"), ("is_wet", True), ("layers", ["a", Path("b")]),
     ("stops", (1, 2.5)), ("stops", [3]), ("told", print), ("notes", object())],
)  # fmt: skip
def test_a_value_that_keeps_the_rules(name, value):
    assert getattr(Paint(**{name: value}), name) is value


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [(within(0, 1), (0, 0.5, 1), (-1, 2)), (within(0, 1, "[)"), (0, 0.5), (1, -0.1)),
     (within(0, 1, "(]"), (0.5, 1), (0, 1.1)), (within(0, 1, "()"), (0.5,), (0, 1)),
     (at_least(2), (2, 3, 2**53), (1, 2**53 + 1, math.inf, -math.inf)),
     (above(0), (1e-300,), (0, 1e300, math.inf)),
     (above(0, finite=False), (1, math.inf), (0, 1e300, math.nan))],
)  # fmt: skip
def test_the_ends_of_intervals(rule, inside, outside):
    assert [rule("x", value) for value in inside] == [""] * len(inside)
    assert all(rule("x", value).startswith("`") for value in (*outside, math.nan))


def test_words_of_a_rule_are_looked_up_when_a_value_is_checked(monkeypatch):
    monkeypatch.setitem(WORDS, "green", 3)
    assert Paint(colour="green").colour == "green"
    assert next(f for f in fields_of(Paint) if f.name == "colour").choices == tuple(WORDS)


def test_what_is_derived_from_a_field():
    by_name = {field.name: field for field in options_of(Paint)}
    assert "notes" not in by_name  # it is no option
    assert [field.flag for field in by_name.values()][:4] == [
        "--coats", "--thickness-mm", "--gloss", "--finish",
    ]  # fmt: skip
    assert [by_name[name].label for name in ("num_coats", "thickness_mm", "is_wet")] == [
        "Coats", "Thickness, mm", "Is wet",
    ]  # fmt: skip
    assert by_name["finish"].choices == ("matt", "satin")
    assert by_name["gloss"].default_text == by_name["gloss"].text(None) == "as it comes"
    assert (by_name["gloss"].text(0.25), by_name["num_coats"].default_text) == ("0.25", "2")
    assert {field.topic for field in by_name.values()} == {Paint}


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "yes"), (False, "no"), (None, "none"), ("", "none"), (math.inf, "none"), ((), "none"),
     (0, "0"), (0.5, "0.5"), (1e-4, "0.0001"), ("tpe", "tpe"), ([1, 2.0], "1, 2"),
     (Path("a/b"), "a/b")],
)  # fmt: skip
def test_a_value_in_words(value, text):
    assert in_words(value) == text


def test_conflicts_come_with_broken_rules_but_not_of_the_options_that_broke_one():
    with pytest.raises(InputError) as caught:
        Paint(gloss=0.5, num_coats=0)
    assert caught.value.problems == (
        "`1 <= num_coats` must hold, but got 0.",
        "`finish=matt` does not go with `gloss=`.",
    )
    with pytest.raises(InputError) as caught:
        Paint(gloss=7.0)
    assert len(caught.value.problems) == 1


@dataclass(frozen=True, kw_only=True)
class Wall(Paint):
    default: ClassVar[str] = ""
    width_m: Annotated[float, above(0), Option("Width.")] = field(kw_only=False)

    def __post_init__(self) -> None:
        """Checks nothing."""


def test_what_broke_a_rule_is_replaced_by_its_default_where_it_has_one():
    problems = Problems()
    sound = Wall(-1.0, num_coats=0, finish="rough", colour="blue").sound(problems)
    assert (sound.num_coats, sound.finish, sound.colour, sound.width_m) == (2, "matt", "blue", -1.0)
    assert len(problems) == 3
    assert [f.name for f in fields_of(Wall) if f.is_positional] == ["width_m"]


def test_options_know_which_of_them_were_given():
    wall = Wall(2.0, num_coats=2, gloss=None)
    assert wall.given == copy.copy(wall).given == {"num_coats", "gloss"}
    assert wall == Wall(2.0)  # two that are alike are equal, given or not
    assert pickle.loads(pickle.dumps(wall)) == wall
    assert Wall(2.0).values(Paint) == {f.name: f.default for f in fields_of(Paint)}
