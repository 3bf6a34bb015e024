"""The database of studies.

What goes in comes out, a run has one owner, and one clear message says why a database cannot be
used.

States are compared in words: from Python 3.13 on data classes with the same nan are not equal.
"""

import math
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.decays import DECAYS, MultiStep, Plateau, StepDecay
from lrtune.core.errors import InputError, StoreError
from lrtune.core.recipe import Recipe
from lrtune.core.run import Measurement
from lrtune.core.space import Interval
from lrtune.core.study import Budget, RangeCurve, RangeResult, StudyConfig, TrainSettings
from lrtune.core.urls import shown
from lrtune.decide.looks import looks_of
from lrtune.store import database as database_module
from lrtune.store.database import StudyDatabase
from lrtune.store.encoding import config_from_json, config_to_json
from lrtune.store.workers import this_worker
from tests.studies import full_run

CLAIM = """
import sys, time
from pathlib import Path
from lrtune.core.recipe import Recipe
from lrtune.core.run import Run
from lrtune.store.database import StudyDatabase
from lrtune.store.workers import this_worker

url, num_runs, go = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
store = StudyDatabase(url).study("study")
print("ready", flush=True)
while not go.exists():
    pass
for i in range(num_runs):
    epochs = {"recipe_epochs": 4, "horizon_epochs": 4, "stop_epochs": 4}
    run = Run(id=f"trial-{i:04d}", kind="full", trial=i, recipe=Recipe(), seed=0, **epochs)
    if store.claim(run, this_worker()):
        print(run.id)
"""


def claimer(database, num_runs, go):
    """A process that claims `trial-0000` and the following once the file `go` exists.

    It prints those that it got.
    """
    command = [sys.executable, "-c", CLAIM, database.url, str(num_runs), str(go)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def alike(one, other):
    """Equal, nan to nan: a text of each float is as exact as the float."""
    return repr(one) == repr(other)


# --- what goes in comes out

CONFIG_CHANGES = {
    "as it is": {},
    "infinite clip norm": {
        "settings": TrainSettings(clip_norm=math.inf, batch_size=64, accumulate=4, precision="bf16")
    },
    "target": {"target": 91.25},
    "file": {"task": {"file": "/home/me/my täsk.py", "sha256": "ab"}},
    "multistep": {"baseline": Recipe(decay=MultiStep(milestones_epochs=(1.5, 3.0), factor=0.2))},
    "plateau": {
        "baseline": Recipe(optimizer="adamw", decay=Plateau(monitor="top1", threshold_mode="abs"))
    },
    "space": {"space_toml": '# Größe\n[parameters]\n"peak_lr" = 1e-3\n'},
    "looks": {
        "looks": looks_of(1, 3, seed=5),
        "rank_by": "val_loss",
        "lag": 3,
        "matters": 0.1,
        "confirm": "quick",
        "settings": TrainSettings(ema_half_life_epochs=0.5),
    },
    "seeds": {
        "seed": 2**40,
        "num_seeds": 1,
        "confirm": "0",
        "sampler": "qmc",
        "pruner": "none",
    },
}


@pytest.mark.parametrize("changes", CONFIG_CHANGES.values(), ids=CONFIG_CHANGES.keys())
def test_a_configuration_comes_back_equal(database, make_config, changes):
    config = make_config(**changes)
    database.create(config)
    assert StudyDatabase(database.url).config("study") == config
    assert config_to_json(config_from_json(config_to_json(config))) == config_to_json(config)


@pytest.mark.parametrize(
    "text",
    [
        "0.00001runs",
        "1.000000000001runs",
        "50",
        "1000000",
        "1234567",
        "300ep",
        "2.5runs",
        "90s",
        "123456789s",
        "30min",
        "4h",
    ],
)
def test_every_budget_comes_back_equal(make_config, text):
    config = make_config(budget=Budget.parse(text))
    assert config_from_json(config_to_json(config)).budget == config.budget


def test_range_tests_come_back_equal_and_the_first_ones_stay(store):
    curve = RangeCurve(seed=1, lrs=(1e-5, 1e-3, 0.1), losses=(2.3, 1.9, 1e30), diverged=True)
    found = RangeResult(
        optimizer="sgd",
        curves=(curve,),
        interval=Interval(low=1e-3, high=0.5, suggestion=0.1),
        rule="ours",
        suggestions={"valley": 0.02},
    )
    nothing = RangeResult(
        optimizer="adamw", curves=(), interval=None, rule="ours", reason="no signal: flat"
    )
    assert store.state().range_results == ()
    store.record_ranges((found, nothing))
    store.record_ranges((nothing,))
    assert store.state().range_results == (found, nothing)


@pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS.keys())
def test_a_run_comes_back_equal(store, make_run, decay):
    needed = {StepDecay: {"every_epochs": 1.5}, MultiStep: {"milestones_epochs": (1.0, 2.5)}}.get(
        decay, {}
    )
    recipe = Recipe(
        peak_lr=0.1 + 0.2, warmup_epochs=1 / 3, decay=decay(**needed), weight_decay=5e-4
    )
    lengths = {"recipe_epochs": 27, "horizon_epochs": 9, "stop_epochs": 3}
    run = make_run(
        "baseline-2", kind="look", trial=-1, recipe=recipe, seed=3_000_000_000, **lengths
    )
    assert store.claim(run, this_worker())
    (record,) = store.state().records
    assert (record.run, record.state, record.measurements, record.test) == (
        run,
        "running",
        (),
        None,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A database for the examples of a property, each with a run of its own."""
    return StudyDatabase(f"sqlite:///{tmp_path_factory.mktemp('store') / 'lrtune.db'}")


@given(
    floats=st.fixed_dictionaries(  # SQLite keeps no sign of a zero
        {f.name: st.floats().map(lambda x: x + 0.0) for f in fields(Measurement) if f.type is float}
    ),
    metrics=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.floats()),
)
def test_every_float_of_a_measurement_comes_back_nan_and_infinity_too(many, floats, metrics):
    wanted = Measurement(
        epoch=1, step=7, metrics=metrics, prefix="1f", reused=True, again_epochs=3, **floats
    )
    name = f"study-{len(many.names())}"
    many.create(
        StudyConfig(
            name=name, task={}, space_name="", space_toml="", epochs=1, steps_per_epoch=7,
            num_validation=1, baseline=Recipe(),
        )
    )  # fmt: skip
    store = many.study(name)
    run = full_run(Recipe(), 1)
    store.claim(run, this_worker())
    store.record(run, wanted)
    (found,) = many.study(name).state().records[0].measurements
    assert alike(found, wanted)
    assert found.diverged == wanted.diverged


def test_recording_an_epoch_again_keeps_the_first_value(store, make_run, measured):
    run = make_run()
    store.claim(run, this_worker())
    store.record(run, measured(1))
    store.record(run, measured(1, metrics={"val_loss": 1.0, "top1": 99.0}))
    store.record(run, measured(2))
    assert repr(store.state().records[0].measurements) == repr((measured(1), measured(2)))


def test_measurements_come_in_the_order_of_their_epochs_and_of_their_own_run(
    store, make_run, measured
):
    one, other = make_run("trial-0000"), make_run("trial-0001", trial=1)
    for run in (one, other):
        store.claim(run, this_worker())
    for epoch in (2, 1, 3):
        store.record(one, measured(epoch))
    store.record(other, measured(1, metrics={"top1": 1.0}))
    first, second = store.state().records
    assert [m.epoch for m in first.measurements] == [1, 2, 3]
    assert repr(second.measurements) == repr((measured(1, metrics={"top1": 1.0}),))


def test_how_a_run_ended_is_recorded(store, make_run):
    run = make_run()
    store.claim(run, this_worker())
    store.finish(run, "pruned", "Top-1 10.00 is at chance")
    store.record_test(run.id, {"top1": 88.5, "f1": math.inf})
    (record,) = StudyDatabase(store._database.url).study("study").state().records
    assert (record.state, record.reason, record.test) == (
        "pruned",
        "Top-1 10.00 is at chance",
        {"top1": 88.5, "f1": math.inf},
    )
    assert not record.orphaned


# --- studies


def test_studies_are_apart_and_listed_oldest_first(database, make_config, make_run):
    for name in ("zebra", "ant"):
        database.create(make_config(name=name))
    zebra, ant = database.study("zebra"), database.study("ant")
    assert zebra.claim(make_run(), this_worker())
    assert database.names() == ["zebra", "ant"]
    assert ant.state().records == ()
    assert ant.claim(make_run(), this_worker())  # the same id, in another study


def test_a_study_is_created_once(database, make_config):
    database.create(make_config())
    with pytest.raises(StoreError, match="there is a study named 'study' already"):
        database.create(make_config(seed=1))
    assert database.config("study").seed == 0


def test_a_study_that_is_not_there_is_refused_with_those_that_are(store):
    database = store._database
    assert database.config("other") is None
    with pytest.raises(InputError, match=r"no study 'other'.*there are: study"):
        database.study("other")


def test_a_larger_budget_replaces_the_old_one(database, make_config):
    database.create(make_config())
    database.update_config(make_config(budget=Budget.parse("300ep")))
    assert StudyDatabase(database.url).study("study").config.budget == Budget(300, "epochs")


# --- who owns a run


def test_a_run_is_claimed_by_one_worker(store, make_run):
    assert store.claim(make_run(), this_worker())
    assert not store.claim(make_run(), "elsewhere.example/1/2.00")
    assert store.claim(make_run(), this_worker())  # it has it already
    assert not store.state().records[0].orphaned


def test_a_run_whose_process_is_gone_goes_to_the_next_one(store, make_run, tmp_path):
    (tmp_path / "go").touch()
    process = claimer(store._database, 1, tmp_path / "go")
    assert process.communicate()[0].split() == ["ready", "trial-0000"]
    assert store.state().records[0].orphaned
    assert store.claim(make_run(), this_worker())
    assert not store.state().records[0].orphaned
    assert not store.claim(make_run(), "elsewhere.example/1/2.00")


def test_a_run_that_was_given_back_goes_to_the_next_one(store, make_run, measured):
    run = make_run()
    store.claim(run, this_worker())
    store.record(run, measured(1))
    store.release(run)
    assert store.state().records[0].orphaned
    assert store.claim(run, "elsewhere.example/1/2.00")
    (record,) = store.state().records
    assert repr((record.orphaned, record.measurements)) == repr((False, (measured(1),)))


def test_a_heartbeat_keeps_a_run_on_another_machine(store, make_run, monkeypatch):
    run = make_run()
    store.claim(run, "elsewhere.example/1/2.00")
    with store._database.engine.begin() as connection:
        connection.execute(database_module._runs.update().values(seen_at=0.0))
    assert store.state().records[0].orphaned
    store.heartbeat(run)
    assert not store.state().records[0].orphaned


@pytest.mark.parametrize("state", ["completed", "pruned", "diverged", "failed"])
def test_a_run_that_has_ended_is_nobodys(store, make_run, state):
    run = make_run()
    store.claim(run, this_worker())
    store.finish(run, state)
    store.release(run)
    assert not store.claim(run, this_worker())


def test_of_two_processes_that_race_exactly_one_gets_each_run(store, tmp_path):
    num_runs = 60
    racers = [claimer(store._database, num_runs, tmp_path / "go") for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    got = [racer.communicate()[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sorted(got[0] + got[1]) == [f"trial-{i:04d}" for i in range(num_runs)]
    assert [record.run.trial for record in store.state().records] == list(range(num_runs))


def test_several_may_open_a_new_database_at_the_same_moment(tmp_path):
    barrier = Barrier(4)

    def open_one(number):
        barrier.wait()
        return StudyDatabase(f"sqlite:///{tmp_path / f'{number}.db'}").names()

    with ThreadPoolExecutor(4) as pool:
        for number in range(20):
            assert list(pool.map(open_one, [number] * 4)) == [[]] * 4


def test_runs_that_failed_are_tried_again_as_nobodys_with_what_they_have(store, make_run, measured):
    for number, state in enumerate(("failed", "diverged", "failed")):
        run = make_run(f"trial-{number:04d}", trial=number)
        store.claim(run, this_worker())
        store.record(run, measured(1))
        store.finish(run, state, "out of memory")
    other = StudyDatabase(store._database.url).study("study")
    assert [record.state for record in other.state().records] == ["failed", "diverged", "failed"]
    store.retry_failed()
    for records in (store.state().records, other.state().records):
        assert [(r.state, r.orphaned, r.epochs) for r in records] == [
            ("running", True, 1), ("diverged", False, 1), ("running", True, 1),
        ]  # fmt: skip
        assert [record.reason for record in records] == ["", "out of memory", ""]


def test_a_study_is_deleted_only_when_nobody_is_at_it(
    store, database, make_config, make_run, measured
):
    database.create(make_config(name="another"))
    run = make_run()
    store.claim(run, this_worker())
    store.record(run, measured(1))
    with pytest.raises(InputError, match="a worker is training for study 'study'"):
        database.delete("study")
    assert store.state().records[0].epochs == 1
    store.release(run)
    database.delete("study")
    assert database.names() == ["another"]
    with pytest.raises(InputError, match=r"no study 'study' in .*; there are: another"):
        database.delete("study")
    database.create(make_config())
    assert database.study("study").state().records == ()


# --- reading while others write


def test_what_is_read_once_is_still_right_after_others_have_written(store, make_run, measured):
    other = StudyDatabase(store._database.url).study("study")
    ended, running = make_run("trial-0000"), make_run("trial-0001", trial=1)
    for run in (ended, running):
        other.claim(run, this_worker())
        other.record(run, measured(1))
    other.finish(ended, "completed")
    assert repr(store.state()) == repr(other.state())
    other.record(running, measured(2))
    assert store.state().records[1].epochs == 2
    other.finish(running, "diverged", "the loss was not finite")
    other.claim(make_run("trial-0002", trial=2), this_worker())
    other.record_test(ended.id, {"top1": 90.0})  # of a run that `store` has read to its end
    fresh = StudyDatabase(store._database.url).study("study").state()
    assert [record.test for record in fresh.records] == [{"top1": 90.0}, None, None]
    assert repr(store.state()) == repr(fresh) == repr(other.state())


# --- what cannot be used


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:SECRET@host:po@rt/db",
        "postgresql:/me:SECRET@host/db",
        "nosuchdatabase://me:SECRET@host/db?Password=SECRET",
        "mssql+nosuchdriver:///?odbc_connect=DRIVER%3Dx%3BPWD%3DSECRET",
        "sqlite:///x.db?timeout=SECRET",
    ],
)
def test_no_error_of_a_driver_tells_a_password(url):
    with pytest.raises(StoreError, match="cannot be used as a database: ") as raised:
        StudyDatabase(url)
    assert "SECRET" not in str(raised.value)


@contextmanager
def held(path):
    """Another program that writes to the database and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("CREATE TABLE IF NOT EXISTS theirs (x)")
        yield


def test_a_database_that_is_locked_when_it_is_opened(path, monkeypatch):
    monkeypatch.setattr(database_module, "BUSY_S", 0.05)
    with (
        held(path),
        pytest.raises(StoreError, match=r"lrtune\.db: the database is locked by another program"),
    ):
        StudyDatabase(f"sqlite:///{path}")


def test_a_database_that_is_locked_when_it_is_written(store, path, make_run, monkeypatch):
    monkeypatch.setattr(database_module, "BUSY_S", 0.05)
    study = StudyDatabase(f"sqlite:///{path}").study("study")
    with held(path):
        assert study.state().records == ()  # whoever only reads is not kept waiting
        with pytest.raises(StoreError, match="the database is locked by another program"):
            study.claim(make_run(), this_worker())
    assert study.claim(make_run(), this_worker())


def test_a_database_that_is_read_only_can_be_read_and_says_so_when_written(
    store, path, make_run, measured
):
    store.claim(make_run(), this_worker())
    store.record(make_run(), measured(1))
    study = StudyDatabase(f"sqlite:///file:{path}?mode=ro&uri=true").study("study")
    assert repr(study.state()) == repr(store.state())
    for write in (
        lambda: study.claim(make_run("trial-0001"), this_worker()),
        lambda: study.record(make_run(), measured(2)),
        lambda: study.finish(make_run(), "completed"),
        lambda: study._database.create(replace(study.config, name="another")),
    ):
        with pytest.raises(
            StoreError, match="the database cannot be written: it, or its folder, is read-only"
        ):
            write()
    assert store.state().records[0].epochs == 1


def make_text(path):
    path.write_text("Dear diary, this is no database at all. " * 100)


def make_folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("prepare", "url", "words"),
    [
        (make_text, "sqlite:///{path}", "the file is not a database"),
        (
            make_folder,
            "sqlite:///{path}",
            "cannot be opened: its folder is missing or not accessible",
        ),
        (
            None,
            "sqlite:///{path}/nowhere/lrtune.db",
            "cannot be opened: its folder is missing or not accessible",
        ),
        (
            None,
            "sqlite:///file:{path}?mode=ro&uri=true",
            "cannot be opened: its folder is missing or not accessible",
        ),
        (None, "nosuchdatabase://localhost/x", "cannot be used as a database"),
        (None, "banana", "cannot be used as a database"),
    ],
    ids=["text", "a folder", "no folder", "missing and read-only", "unknown kind", "no URL"],
)
def test_what_cannot_be_opened_is_one_sentence(path, prepare, url, words):
    if prepare:
        prepare(path)
    with pytest.raises(StoreError) as raised:
        StudyDatabase(url.format(path=path))
    assert words in str(raised.value)
    assert str(raised.value).startswith(shown(url.format(path=path)))
    assert "\n" not in str(raised.value)
