"""Studies of version 0.1.0 and of the rules 2 of 0.2.0.dev, which had rungs, from the command line.

They are in databases as those versions wrote them. What is recommended is what they recommended,
and how sure that is, is said by the rules of today.
"""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import jsonschema
import pytest

from lrtune.core.study import RULES
from lrtune.decide.plan import outcome
from lrtune.decide.recommend import recommend
from lrtune.decide.trials import trials_of
from lrtune.store.database import StudyDatabase
from tests.reporting.test_files import SCHEMA
from tests.studies import record, state_of

DATA = Path(__file__).parent / "store" / "data"
DUMPS = {"0.1.0": DATA / "version-0.1.0.sql", "rules 2": DATA / "rules-2.sql"}
NOT_CONTINUED = (
    "was begun under the rules of an earlier version of lrtune, and cannot be continued under "
    "today's. It can be reported, exported and compared with; begin a study of another name."
)


@dataclass(frozen=True)
class Study:
    """A study of another version, and what is to be reported of it."""

    dump: str
    name: str
    best: str
    values: tuple[float, ...]
    """Of the recommended recipe over fresh seeds."""
    verdict: str
    """How it begins, with today's interval."""
    final: bool


LOOKS_ALONE = "It is the best by the looks of the search, and not confirmed with fresh seeds."
STUDIES = [
    Study(
        "0.1.0", "begun-and-finished", "trial 3", (71.0, 72.5),
        "+16.00 points of Top-1 against the baseline, 95 % interval [+1.00, +31.00]: better.", True,
    ),
    Study(
        "0.1.0", "compared", "schedule-free-adamw", (66.5, 68.0),
        "+18.00 points of Top-1 against sgd-linear, 95 % interval [+1.79, +31.59]: better.", True,
    ),
    Study("0.1.0", "interrupted", "trial 11", (), LOOKS_ALONE, False),
    Study(
        "rules 2", "finished", "trial 3", (71.0, 72.5),
        "+16.00 points of Top-1 against the baseline, 95 % interval [+1.00, +31.00]: better.", True,
    ),
    Study(
        "rules 2", "compared", "adamw", (66.0, 67.0),
        "+8.25 points of Top-1 against sgd-linear, 95 % interval [-6.75, +23.25]: no gain is",
        True,
    ),
    Study("rules 2", "half-confirmed", "trial 3", (72.5,), "Trial 3 ties with the base", False),
    Study("rules 2", "half-searched", "trial 3", (), LOOKS_ALONE, False),
]  # fmt: skip
FINISHED = {"0.1.0": "begun-and-finished", "rules 2": "finished"}


@pytest.fixture
def open_old(tmp_path, monkeypatch):
    """Makes a folder with the database of such a version the current one."""

    def open_dump(dump):
        monkeypatch.chdir(tmp_path)
        Path(".lrtune").mkdir()
        with closing(sqlite3.connect(".lrtune/lrtune.db")) as connection:
            connection.executescript(DUMPS[dump].read_text())
        return tmp_path

    return open_dump


def studies(folder):
    with closing(sqlite3.connect(folder / ".lrtune" / "lrtune.db")) as connection:
        return connection.execute("SELECT name, config FROM lrtune_studies ORDER BY 1").fetchall()


@pytest.mark.parametrize("dump", DUMPS)
def test_they_are_listed_with_what_they_had_come_to(open_old, call, dump):
    open_old(dump)
    listed = call("list")
    assert listed.code == 0, listed.err
    for study in STUDIES:
        if study.dump == dump:
            assert study.name in listed.out
            if study.final:
                assert f"{mean(study.values):.2f} ± {stdev(study.values):.2f}" in listed.out


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: f"{study.dump} {study.name}")
def test_their_reports_recommend_what_that_version_did(open_old, call, study):
    folder = open_old(study.dump)
    outcome = call("report", study.name, "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    jsonschema.validate(report, SCHEMA)
    recommendation, (best, *_) = report["recommendation"], report["contenders"]
    assert (recommendation["name"], recommendation["final"]) == (study.best, study.final)
    assert recommendation["verdict"].startswith(study.verdict)
    assert ("not finished" in recommendation["verdict"]) == (not study.final)
    assert (best["name"], tuple(best["values"])) == (study.best, study.values)
    text = (folder / "reports" / study.name / "report.md").read_text()
    assert study.verdict in text
    assert (folder / "reports" / study.name / "report.html").is_file()


@pytest.mark.parametrize("dump", DUMPS)
def test_a_study_with_rungs_is_known_as_one_with_looks(open_old, dump):
    folder = open_old(dump)
    store = StudyDatabase(f"sqlite:///{folder / '.lrtune' / 'lrtune.db'}").study(FINISHED[dump])
    state = store.state()
    assert {record.run.kind for record in state.records} == {"baseline", "look", "full", "confirm"}
    assert (state.config.pruner, state.config.looks) == ("none", ())
    trials = trials_of(state)
    assert [(trial.level, trial.finished) for trial in trials] == [
        (1, False), (1, False), (2, False), (3, True), (1, False), (1, False),
    ]  # fmt: skip
    assert [record.run.stop_epochs for record in trials[3].runs] == [1, 2, 4]


def test_one_that_was_given_up_under_other_rules_is_not_final():
    """Its baseline was trained, and then everything failed."""
    baseline = [record([50] * 4, "baseline", seed=seed) for seed in (1, 2)]
    failed = [record([], trial=trial, state="failed") for trial in range(3)]
    state = state_of(*baseline, *failed, rules=RULES - 1, num_seeds=2)
    assert not recommend(state).final
    assert outcome(state).failed


@pytest.mark.parametrize("kind", ["baseline", "full", "confirm"])
def test_one_that_was_left_in_the_middle_of_a_run_is_not_final(kind):
    records = [
        *(record([50] * 4, "baseline", seed=seed) for seed in (1, 2)),
        *(record([60 + trial] * 4, trial=trial) for trial in (0, 1)),
        *(record([61] * 4, "confirm", trial=1, seed=seed) for seed in (1, 2)),
    ]
    assert recommend(state_of(*records, rules=RULES - 1, num_seeds=2)).final
    last = max(number for number, r in enumerate(records) if r.run.kind == kind)
    records[last] = replace(records[last], state="running", orphaned=True)
    state = state_of(*records, rules=RULES - 1, num_seeds=2)
    assert outcome(state) is None
    assert not recommend(state).final


@pytest.mark.parametrize(("confirm", "ended"), [("full", False), ("0", True)])
def test_one_whose_search_ended_has_ended_where_nothing_was_to_be_confirmed(confirm, ended):
    records = [record([50] * 4, "baseline", seed=1), record([60] * 4)]
    state = state_of(*records, rules=RULES - 1, num_seeds=1, confirm=confirm)
    assert (outcome(state) is not None) == ended
    assert not recommend(state).final  # the best one was not confirmed


@pytest.mark.parametrize("to", ["torch", "lightning", "timm", "transformers", "json", "toml"])
@pytest.mark.parametrize("dump", DUMPS)
def test_they_are_exported(open_old, call, dump, to):
    open_old(dump)
    exported = call("export", FINISHED[dump], "--to", to)
    assert (exported.code, "0.121" in exported.out) == (0, True), exported.err


@pytest.mark.parametrize("dump", DUMPS)
def test_their_recipes_take_part_in_a_comparison(open_old, call, dump):
    open_old(dump)
    compared = call(
        "compare", "adamw", "--include", FINISHED[dump], "--data", "digits", "--model", "mlp",
        "--epochs", "2", "--train-size", "200", "--val-size", "100", "--seeds", "1",
        "--study", "new", "--json", "--quiet",
    )  # fmt: skip
    assert compared.code == 0, compared.err
    names = [recipe["name"] for recipe in json.loads(compared.out)["study"]["recipes"]]
    assert names == ["adamw", f"trial 3 of {FINISHED[dump]}"]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: f"{study.dump} {study.name}")
def test_they_are_not_continued(open_old, call, study):
    folder = open_old(study.dump)
    call("list")  # which migrates them
    before = studies(folder)
    resumed = call("resume", study.name)
    assert resumed.code == 2
    assert resumed.err == f"lrtune: study {study.name!r} {NOT_CONTINUED}\n"
    assert studies(folder) == before


@pytest.mark.parametrize("dump", DUMPS)
def test_the_command_that_began_one_does_not_continue_it_either(open_old, call, dump):
    """Without its options that are gone, which are refused before."""
    open_old(dump)
    words = (
        "search", "--data", "digits", "--model", "mlp", "--epochs", "4", "--train-size", "300",
        "--val-size", "200", "--budget", "6", "--study", FINISHED[dump], "--quiet", "--seeds", "2",
        "--max-seeds", "2",
    )  # fmt: skip
    begun = call(*words)
    assert begun.code == 2
    assert begun.err == f"lrtune: study {FINISHED[dump]!r} {NOT_CONTINUED}\n"
    begun = call(*words, "--rungs", "c1,2")
    assert begun.code == 2
    assert "`--rungs` is gone" in begun.err


@pytest.mark.parametrize("dump", DUMPS)
def test_one_can_be_deleted(open_old, call, dump):
    folder = open_old(dump)
    assert call("delete", "compared", "--yes").code == 0
    others = sorted(s.name for s in STUDIES if s.dump == dump and s.name != "compared")
    assert [name for name, _ in studies(folder)] == others
