"""A database of version 0.1.0 opens, says what it said, and is migrated once or not at all.

`data/version-0.1.0.sql` is a dump of one that version 0.1.0 wrote; the expected values are what it
reported of it, but for the interval, which is wider today.
"""

import math
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lrtune.core.errors import InputError
from lrtune.core.objective import Objective
from lrtune.core.study import RULES
from lrtune.decide.recommend import recommend
from lrtune.decide.trials import trials_of
from lrtune.store import migration
from lrtune.store.database import StudyDatabase, check_rules
from lrtune.store.encoding import config_from_json, config_to_json

DUMP = Path(__file__).parent / "data" / "version-0.1.0.sql"
NAMES = ["begun-and-finished", "compared", "interrupted"]
OPEN = """
import sys
from pathlib import Path
from lrtune.store.database import StudyDatabase

print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    pass
database = StudyDatabase(sys.argv[1])
print([len(database.study(name).state().records) for name in database.names()])
"""


@pytest.fixture
def old(path):
    """The file of a database of version 0.1.0."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP.read_text())
    return path


@pytest.fixture
def migrated(old):
    return StudyDatabase(f"sqlite:///{old}")


def dump(path):
    """All tables of a database as text."""
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def rows(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_every_study_is_there_with_its_objective(migrated):
    assert migrated.names() == NAMES
    for name in NAMES:
        config = migrated.study(name).config
        assert config.objective == Objective(num_counted=config.num_validation, guessing=10.0)
        assert (config.rules, config.groups, config.paired) == (1, (), True)
        assert config_from_json(config_to_json(config)) == config
        assert (config.pruner, config.looks, config.confirm) == ("none", (), "full")
        assert {r.run.kind for r in migrated.study(name).state().records} <= {
            "baseline", "look", "full", "confirm",
        }  # fmt: skip


def test_a_finished_search_recommends_what_it_did(migrated):
    outcome = recommend(migrated.study("begun-and-finished").state())
    assert outcome.final
    assert (outcome.best.name, outcome.target) == ("trial 3", 55.75)
    assert (outcome.best.mean, round(outcome.best.spread, 4)) == (71.75, 1.0607)
    assert [round(value, 3) for value in outcome.best.test_values] == [68.667, 70.667]
    assert outcome.verdict == (
        "+16.00 points of Top-1 against the baseline, 95 % interval [+1.00, +31.00]: better."
    )


def test_a_comparison_leads_as_it_did(migrated):
    objective = migrated.study("compared").config.objective
    outcome = recommend(migrated.study("compared").state())
    assert outcome.best.name == "schedule-free-adamw"
    assert objective.summary(outcome.best.values) == "67.25 ± 1.06"
    assert [contender.name for contender in outcome.ties] == ["adamw"]


def test_an_interrupted_search_shows_how_far_it_came(migrated):
    state = migrated.study("interrupted").state()
    assert len(state.records) == 33
    outcome = recommend(state)
    assert (outcome.best.name, outcome.final) == ("trial 11", False)
    assert trials_of(state)[11].finished


def test_range_tests_survive(old):
    (before,) = rows(old, "SELECT range_results FROM lrtune_studies WHERE name = 'interrupted'")
    database = StudyDatabase(f"sqlite:///{old}")
    (after,) = rows(old, "SELECT range_results FROM lrtune_studies WHERE name = 'interrupted'")
    assert before == after
    assert all(database.study(name).state().range_results is not None for name in NAMES)


def test_every_value_survives(old):
    columns = "study, run, epoch, train_loss, val_loss, top1, averaged_val_loss, averaged_top1"
    kept = "lr_first, lr_last, seconds, images_per_s, ended_at, memory_mib"
    before = rows(old, f"SELECT {columns}, {kept} FROM lrtune_measurements")
    database = StudyDatabase(f"sqlite:///{old}")
    after = {
        (name, record.run.id, m.epoch): m
        for name in NAMES
        for record in database.study(name).state().records
        for m in record.measurements
    }
    assert len(before) == len(after)
    names = columns.split(", ")[3:]
    for study, run, epoch, *values in before:
        m = after[study, run, epoch]
        others = (m.lr_first, m.lr_last, m.seconds, m.examples_per_s, m.ended_at, m.memory_mib)
        metrics = [m.metrics.get(name, math.nan) for name in names]
        wanted = [math.nan if value is None else value for value in values]
        assert [*metrics, *others] == pytest.approx(wanted, rel=0, abs=0, nan_ok=True)


def test_a_null_is_nan_and_of_averaged_weights_it_is_no_metric(old):
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("UPDATE lrtune_measurements SET averaged_top1 = NULL, val_loss = NULL")
        connection.commit()
    state = StudyDatabase(f"sqlite:///{old}").study("compared").state()
    metrics = state.records[0].measurements[0].metrics
    assert math.isnan(metrics["val_loss"])
    assert "averaged_top1" not in metrics
    assert set(metrics) == {"train_loss", "val_loss", "top1", "averaged_val_loss"}


def test_a_second_opening_changes_nothing(old):
    first = dump(old)
    StudyDatabase(f"sqlite:///{old}")
    second = dump(old)
    assert first != second
    assert not any("_0_1_0" in line or "images_per_s" in line for line in second)
    StudyDatabase(f"sqlite:///{old}")
    assert dump(old) == second


@pytest.mark.parametrize("step", ["_config", "_run", "_measurement"])
def test_a_migration_that_fails_leaves_everything_as_it_was(old, monkeypatch, step):
    before, count, convert = dump(old), [0], getattr(migration, step)

    def fails_the_second_time(*arguments):
        count[0] += 1
        if count[0] == 2:
            raise KeyError("made up")
        return convert(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(migration, step, fails_the_second_time)
        with pytest.raises(KeyError, match="made up"):
            StudyDatabase(f"sqlite:///{old}")
    assert dump(old) == before
    outcome = recommend(StudyDatabase(f"sqlite:///{old}").study("begun-and-finished").state())
    assert outcome.best.name == "trial 3"


def test_several_processes_may_open_it_at_once(old, tmp_path):
    command = [sys.executable, "-c", OPEN, f"sqlite:///{old}", str(tmp_path / "go")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers[0] == answers[1]
    assert answers[0].strip().endswith(", 33]")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_begun_under_other_rules_is_not_continued(migrated, name):
    config = migrated.study(name).config
    for refused in (lambda: check_rules(config), lambda: migrated.open(config)):
        with pytest.raises(InputError) as error:
            refused()
        assert error.value.problems == (
            f"study {name!r} was begun under the rules of an earlier version of lrtune, and cannot "
            "be continued under today's. It can be reported, exported and compared with; begin a "
            "study of another name.",
        )


def test_a_study_of_today_is_continued(database, make_config):
    assert make_config().rules == RULES
    check_rules(make_config())
    assert database.open(make_config()).config == database.open(make_config()).config
