"""The exceptions that users see."""

import pickle
from pathlib import Path

import pytest
import torch

import lrtune
from lrtune.core.errors import (
    DataError,
    InputError,
    LrtuneError,
    Problems,
    StoreError,
    TaskError,
    TrialError,
    check,
    first_line,
    is_of_user,
    quoted,
)


@pytest.mark.parametrize("kind", [InputError, DataError, TaskError, TrialError, StoreError])
def test_one_except_catches_every_kind(kind):
    with pytest.raises(LrtuneError, match="what happened"):
        raise kind("what happened")


@pytest.mark.parametrize(
    ("given", "problems", "text"),
    [
        ("one rule", ("one rule",), "one rule"),
        (["one rule", "another"], ("one rule", "another"), "one rule\nanother"),
    ],
)
def test_an_input_error_lists_every_problem(given, problems, text):
    error = InputError(given)
    assert error.problems == problems
    assert str(error) == text


def test_an_input_error_survives_the_way_from_a_worker_process():
    sent = InputError(["one rule", "another"])
    sent.add_note("a note")
    arrived = pickle.loads(pickle.dumps(sent))
    assert arrived.problems == ("one rule", "another")
    assert str(arrived) == "one rule\nanother"
    assert arrived.__notes__ == ["a note"]
    assert arrived.__cause__ is None


@pytest.mark.parametrize(
    ("file", "is_users"),
    [
        ("/home/me/net.py", True),
        ("net.py", True),
        (f"{Path(lrtune.__file__).parent}_data/net.py", True),
        (f"{Path(lrtune.__file__).parent}/cli.py", False),
        (torch.__file__, False),
        (pickle.__file__, False),
        ("<stdin>", True),
        ("<ipython-input-3-0123>", True),
        ("<frozen importlib._bootstrap>", False),
        ("<string>", False),
    ],
)
def test_whose_code_a_file_is(file, is_users):
    assert is_of_user(file) == is_users


def test_all_rules_that_do_not_hold_are_raised_together():
    check([(True, "this holds")])
    with pytest.raises(InputError) as caught:
        check([(False, "first"), (True, "this holds"), (False, "second")])
    assert caught.value.problems == ("first", "second")


@pytest.mark.parametrize(
    ("said", "line"),
    [("one\ntwo", "one"), ("\n one\n", "one"), ("", "ValueError"), ("\n", "ValueError")],
)
def test_the_first_line_of_an_error(said, line):
    assert first_line(ValueError(said)) == line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        ("a\x1b\u202e\udcff", r"'a\x1b\u202e\udcff'"),
        ([1] * 1000, f"[{'1, ' * 66}1..."),
        pytest.param(10**5000, "a value of type int", id="long"),
    ],
)
def test_a_value_is_quoted_in_one_short_line(value, text):
    assert quoted(value) == text


def test_problems_are_gathered_and_raised_together():
    problems = Problems(["first"])
    with problems.gather():
        raise InputError(["second", "third"])
    with problems.gather():
        pass
    with pytest.raises(InputError) as caught:
        problems.raise_any()
    assert caught.value.problems == ("first", "second", "third")


def test_nothing_gathered_is_nothing_raised():
    Problems().raise_any()


def test_only_input_errors_are_gathered():
    problems = Problems()
    with pytest.raises(DataError), problems.gather():
        raise DataError("no images")
    assert problems == []
