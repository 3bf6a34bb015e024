"""Hidden characters of a text are escaped, and no name has any."""

import pytest

from lrtune.core.printing import is_name, printable

VISIBLE = [
    "",
    "two\nlines\tand a tab",
    "größe Δ 学习",
    "می‌خواهم",
    "👩‍🔬",
    "a`b\\c",
    "a\u00a0b",
    "שלום",
]
# a text, and how it is printed
HIDDEN = {
    "\x1b[31mred\x07": r"\x1b[31mred\x07",
    "over\rwritten\x7f\x85": r"over\rwritten\x7f\x85",
    "\0": r"\x00",
    "caf\udce9.py": r"caf\udce9.py",
    "gpj\u202e\u200f\u2066.exe": r"gpj\u202e\u200f\u2066.exe",
    "\ufeffa\u200bb\u00ad": r"\ufeffa\u200bb\xad",
    "a\u2028b": r"a\u2028b",
    "\U000e0041": r"\U000e0041",
}


@pytest.mark.parametrize("text", VISIBLE)
def test_what_is_visible_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize(("text", "printed"), HIDDEN.items(), ids=HIDDEN.values())
def test_what_is_hidden_is_escaped_once_and_can_be_written(text, printed):
    assert printable(text) == printed
    assert printable(printed) == printed
    assert printed.encode()


@pytest.mark.parametrize("name", ["f1", "val loss", "größe", "می‌خواهم", "a`b"])
def test_what_can_be_a_name(name):
    assert is_name(name)


@pytest.mark.parametrize("name", ["", " ", "a ", "\ta", "a\nb", "a\tb", *HIDDEN, None, 3, b"a"])
def test_what_cannot_be_a_name(name):
    assert not is_name(name)
