"""Documents of users: no number and no depth that could do harm further on."""

import pytest

from lrtune.core.documents import parse_document
from lrtune.core.errors import InputError

NUMBER = "a number must lie between -9007199254740992 and 9007199254740992, but got "
NESTED = "tables and lists must not be nested in more than 8 levels."
NINES = "9" * 5000

GOOD = {
    "nothing": ("", {}),
    "the largest numbers": ("x = 9007199254740992\ny = [-9e15]", {"x": 2**53, "y": [-9e15]}),
    "no numbers": (f"x = true\ny = '{NINES}'", {"x": True, "y": NINES}),
    "depth": ("a.b.c.d.e.f.g.h = 1", {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}),
}


@pytest.mark.parametrize(("text", "values"), GOOD.values(), ids=GOOD)
def test_a_document_that_can_be_used(text, values):
    assert parse_document(text, "x.toml") == values


BAD = {
    "no TOML": ("x = ", ["is not valid TOML: Invalid value (at end of document)."]),
    "infinity": ("x = inf", [f"x: {NUMBER}inf."]),
    "two numbers": ("x = -1.7e308\n[a]\ny = nan", [f"x: {NUMBER}-1.7e+308.", f"a.y: {NUMBER}nan."]),
    "too large": ("x = 9007199254740993", [f"x: {NUMBER}9007199254740993."]),
    "300 digits": (
        f"[a]\nx = {{ low = 1, high = {NINES[:300]} }}",
        [f"a.x.high: {NUMBER}{NINES[:200]}...."],
    ),
    "5000 digits": (f"[a]\nx = {{ low = {NINES} }}", [f"x: {NUMBER}a longer one."]),
    "5000 hexadecimal digits": (
        "x = 0x" + "f" * 5000,
        [f"x: {NUMBER}a value of type int."],
    ),
    "a list of numbers": ("x = { y = [1, inf, inf, nan] }", [f"x.y: {NUMBER}inf."]),
    "deep tables": ("a.b.c.d.e.f.g.h.i = 1", [f"a.b.c.d.e.f.g.h: {NESTED}"]),
    "deep lists": (f"x = {'[' * 8}{']' * 8}", [f"x: {NESTED}"]),
    "lists too deep to be parsed": (f"x = {'[' * 16000}{']' * 16000}", [NESTED]),
    "several in one list": (f"x = [{'[' * 200}{']' * 200}, inf]", [f"x: {NESTED}"]),
}


@pytest.mark.parametrize(("text", "problems"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_named_by_file_and_key(text, problems):
    with pytest.raises(InputError) as raised:
        parse_document(text, "x.toml")
    assert list(raised.value.problems) == [f"x.toml: {problem}" for problem in problems]
