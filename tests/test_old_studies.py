"""Studies of version 0.1.0, in a database as it wrote it, from the command line."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

DUMP = Path(__file__).parent / "store" / "data" / "version-0.1.0.sql"
NOT_CONTINUED = (
    "was begun under the rules of an earlier version of lrtune, and cannot be continued under "
    "today's. It can be reported, exported and compared with; begin a study of another name."
)


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A folder with such a database."""
    monkeypatch.chdir(tmp_path)
    Path(".lrtune").mkdir()
    with closing(sqlite3.connect(".lrtune/lrtune.db")) as connection:
        connection.executescript(DUMP.read_text())
    return tmp_path


def studies(folder):
    with closing(sqlite3.connect(folder / ".lrtune" / "lrtune.db")) as connection:
        return connection.execute("SELECT name, config FROM lrtune_studies ORDER BY 1").fetchall()


def test_they_are_listed_with_what_they_had_come_to(old, call):
    listed = call("list").out
    for words in ("begun-and-finished", "71.75 ± 1.06", "compared", "67.25 ± 1.06", "interrupted"):
        assert words in listed


@pytest.mark.parametrize(
    ("study", "best", "mean", "verdict"),
    [
        (
            "begun-and-finished",
            "trial 3",
            71.75,
            "+16.00 points of Top-1 against the baseline, 95 % interval [+8.50, +23.50]: better.",
        ),
        (
            "compared",
            "schedule-free-adamw",
            67.25,
            "+18.00 points of Top-1 against sgd-linear, 95 % interval [+5.18, +28.23]: better.",
        ),
        ("interrupted", "trial 11", None, "Best of the search so far, not confirmed"),
    ],
)
def test_their_reports_say_what_that_version_said(old, call, study, best, mean, verdict):
    outcome = call("report", study, "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["recommendation"]["name"] == best
    assert report["recommendation"]["verdict"].startswith(verdict)
    assert report["contenders"][0]["mean"] == mean
    assert (old / "reports" / study / "report.html").is_file()


@pytest.mark.parametrize("to", ["torch", "lightning", "timm", "transformers", "json", "toml"])
def test_they_are_exported(old, call, to):
    outcome = call("export", "begun-and-finished", "--to", to)
    assert (outcome.code, "0.121" in outcome.out) == (0, True), outcome.err


def test_their_recipes_take_part_in_a_comparison(old, call):
    outcome = call(
        "compare", "adamw", "--include", "begun-and-finished", "--model", "mlp", "--epochs", "2",
        "--train-size", "200", "--val-size", "100", "--seeds", "1", "--study", "new", "--json",
        "--quiet",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    names = [recipe["name"] for recipe in json.loads(outcome.out)["study"]["recipes"]]
    assert names == ["adamw", "trial 3 of begun-and-finished"]


@pytest.mark.parametrize("study", ["begun-and-finished", "compared", "interrupted"])
def test_they_are_not_continued(old, call, study):
    call("list")  # which migrates them
    before = studies(old)
    outcome = call("resume", study)
    assert outcome.code == 2
    assert outcome.err == f"lrtune: study {study!r} {NOT_CONTINUED}\n"
    assert studies(old) == before


def test_the_command_that_began_one_does_not_continue_it_either(old, call):
    outcome = call(
        "search", "--data", "digits", "--model", "mlp", "--epochs", "4", "--train-size", "300",
        "--val-size", "200", "--budget", "6", "--study", "begun-and-finished", "--quiet",
        "--seeds", "2", "--max-seeds", "2", "--confirm", "1", "--rungs", "c1,2",
    )  # fmt: skip
    assert outcome.code == 2
    assert outcome.err == f"lrtune: study 'begun-and-finished' {NOT_CONTINUED}\n"


def test_one_can_be_deleted(old, call):
    assert call("delete", "compared", "--yes").code == 0
    assert [name for name, _ in studies(old)] == ["begun-and-finished", "interrupted"]
