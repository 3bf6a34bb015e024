"""What dies, hangs or goes away in the middle of a study, and that nothing is lost with it."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from lrtune.core.events import EpochEnded, Note, RunEnded
from lrtune.core.study import Budget
from lrtune.store.database import StudyDatabase
from tests.cluster.fake_training import (
    OpenFake,
    from_anywhere,
    node_of,
    processes_of,
    records_of,
    url_of,
    work_on_cluster,
)
from tests.tuning.fake_objective import EPOCHS, make_config, open_store, work_here
from tests.tuning.fake_training import MiniTraining

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def small():
    return make_config(budget=Budget(4, "trials"))


@pytest.fixture
def store(tmp_path):
    return open_store(url_of(tmp_path), small())


@pytest.fixture
def unbroken(tmp_path):
    """What the local engine records of the same study where nothing goes wrong."""
    (tmp_path / "unbroken").mkdir()
    there = open_store(url_of(tmp_path / "unbroken"), small())
    work_here(there)
    return there


class Strike:
    """Calls `action` once, with the process that trains, after some epoch of some run."""

    def __init__(self, action, *, run="trial-0001", epoch=4):
        self.action, self.run, self.epoch = action, run, epoch
        self.notes, self.nodes = [], set()
        self.struck = False

    def __call__(self, event):
        if isinstance(event, Note):
            self.notes.append(event.text)
        if isinstance(event, EpochEnded) and not event.measurement.reused:
            pid = int(event.measurement.examples_per_s)
            if psutil.pid_exists(pid):
                self.nodes.add(node_of(pid))
            if not self.struck and (event.run.id, event.measurement.epoch) == (
                self.run,
                self.epoch,
            ):
                self.struck = True
                self.action(pid)


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def test_a_worker_process_is_killed(three_nodes, store, unbroken, tmp_path):
    strike = Strike(kill)
    done, runs = work_on_cluster(
        store, OpenFake(tmp_path), three_nodes.address, emit=strike, max_concurrent=1
    )
    assert not done.failed
    assert records_of(store) == records_of(unbroken)
    assert runs.retries == {"trial-0001": 1}
    assert {r.run.id: r.retries for r in store.state().records if r.retries} == runs.retries
    assert strike.notes == [
        "trial-0001 lost its worker, because its process or its node died: "
        "goes on after epoch 4, retry 1 of 3"
    ]
    assert len(processes_of(store)["trial-0001"]) == 2


def test_a_whole_node_is_killed(three_nodes, store, unbroken, tmp_path):
    def kill_node(pid):
        raylet = node_of(pid)
        node = next((n for n in three_nodes.worker_nodes if raylet_of(n) == raylet), None)
        if (
            node is None
        ):  # the head's, which holds the cluster together: kill another, and this worker
            kill(pid)
            node = next(iter(three_nodes.worker_nodes))
        three_nodes.remove_node(node, allow_graceful=False)

    strike = Strike(kill_node)
    # Slow enough that the worker is still at this run when the driver hears of the epoch.
    done, runs = work_on_cluster(
        store, OpenFake(tmp_path, epoch_s=0.2), three_nodes.address, emit=strike
    )
    assert not done.failed
    assert strike.struck
    assert "trial-0001" in runs.retries
    assert {record.state for record in store.state().records} == {"completed"}
    alone = {r.run.id: r for r in unbroken.state().records}
    for record in store.state().records:
        if record.run.id in alone and alone[record.run.id].run == record.run:
            measurements = from_anywhere(record.measurements)
            assert repr(measurements) == repr(alone[record.run.id].measurements)


def raylet_of(node):
    return next(
        info.process.pid
        for kind, infos in node.all_processes.items()
        if kind == "raylet"
        for info in infos
    )


def test_a_run_that_loses_its_workers_too_often_fails_and_the_study_goes_on(
    three_nodes, store, tmp_path
):
    notes = []

    def kill_always(event):
        if isinstance(event, Note):
            notes.append(event.text)
        if isinstance(event, EpochEnded) and event.run.id == "trial-0001":
            kill(int(event.measurement.examples_per_s))

    done, runs = work_on_cluster(
        store, OpenFake(tmp_path), three_nodes.address, emit=kill_always, max_retries=1
    )
    assert not done.failed
    by_id = {record.run.id: record for record in store.state().records}
    assert by_id["trial-0001"].state == "failed"
    assert by_id["trial-0001"].reason.startswith(
        "lost its worker 2 times, the last time because its process"
    )
    assert [note for note in notes if "retry" in note]
    assert runs.retries == {"trial-0001": 2}
    assert by_id["trial-0003"].state == "completed"


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_hangs_is_ended_and_goes_on_elsewhere_or_fails(
    three_nodes, store, tmp_path, times
):
    notes = []
    done, runs = work_on_cluster(
        store, OpenFake(tmp_path, hangs="trial-0001", times=times), three_nodes.address,
        trial_timeout_s=2.0, max_retries=1, max_concurrent=1,
        emit=lambda event: notes.append(event) if isinstance(event, Note) else None,
    )  # fmt: skip
    assert not done.failed
    record = next(r for r in store.state().records if r.run.id == "trial-0001")
    assert runs.retries == {"trial-0001": times}
    assert "it was silent for more than 2 s (--trial-timeout)" in notes[0].text
    if times == 1:
        assert (record.state, record.epochs) == ("completed", EPOCHS)
    else:
        assert (record.state, record.epochs) == ("failed", 2)
        assert "2 times" in record.reason
        assert "--trial-timeout" in record.reason


def test_a_run_that_is_out_of_memory_fails_alone(three_nodes, store, tmp_path):
    done, runs = work_on_cluster(store, OpenFake(tmp_path, fails="trial-0001"), three_nodes.address)
    assert not done.failed
    failed = [r for r in store.state().records if r.state == "failed"]
    assert [(r.run.id, r.reason, r.epochs) for r in failed] == [
        ("trial-0001", "out of memory on cpu", 1)
    ]
    assert runs.retries == {}


# --- checkpoints


@dataclass(frozen=True)
class OpenMini:
    """Opens training in miniature, whose measurements tell the process that they come from."""

    folder: Path

    def __call__(self, devices):
        return WithProcess(steps_per_epoch=10)


class WithProcess(MiniTraining):
    def _measured(self, *args):
        return replace(super()._measured(*args), examples_per_s=float(os.getpid()))


def test_checkpoints_that_are_away_for_ten_seconds(three_nodes, store, tmp_path):
    place, away = tmp_path / "states", tmp_path / "away"  # where `work_on_cluster` has them

    def take_away(pid):
        place.rename(away)
        threading.Timer(10.0, partial(shutil.move, away, place)).start()

    strike = Strike(take_away, epoch=3)
    done, runs = work_on_cluster(
        store, OpenMini(tmp_path), three_nodes.address, emit=strike, max_concurrent=1
    )
    assert not done.failed
    assert strike.struck
    assert runs.retries == {}
    assert {record.state for record in store.state().records} == {"completed"}
    trained = [m.prefix for r in store.state().records for m in r.measurements if not m.reused]
    assert max(Counter(trained).values()) == 1  # nothing was trained twice
    assert sum(m.again_epochs for r in store.state().records for m in r.measurements) == 0


# --- the driver

DRIVER = """
import sys
from tests.cluster.fake_training import OpenFake, url_of, work_on_cluster
from tests.tuning.fake_objective import open_store
from tests.cluster.test_faults import small
from pathlib import Path
folder = Path(sys.argv[1])
store = open_store(url_of(folder), small())
work_on_cluster(store, OpenFake(folder, epoch_s=0.1), sys.argv[2])
"""


def start_driver(folder, address):
    import sys

    words = [sys.executable, "-c", DRIVER, str(folder), address]
    return subprocess.Popen(
        words, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_the_driver_is_killed_and_another_one_goes_on(three_nodes, tmp_path):
    store = open_store(url_of(tmp_path), small())
    driver = start_driver(tmp_path, three_nodes.address)
    while driver.poll() is None and sum(r.epochs for r in store.state().records) < 20:
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    before = store.state()
    running = [record for record in before.records if record.state == "running"]
    assert running
    assert all(record.orphaned for record in running)
    done, _ = work_on_cluster(store, OpenFake(tmp_path), three_nodes.address)
    assert not done.failed
    after = {record.run.id: record for record in store.state().records}
    for record in before.records:  # not one measurement was lost, or made again
        assert after[record.run.id].measurements[: record.epochs] == record.measurements
    assert {record.state for record in after.values()} == {"completed"}


def test_ctrl_c_stops_the_trials_and_leaves_a_study_to_go_on_with(
    three_nodes, tmp_path, command, here
):
    words = (
        "search", "--data", "digits", "--model", "mlp", "--budget", "6", "--epochs", "12",
        "--seeds", "1", "--max-seeds", "1", "--study", "stopped", "--engine", "ray",
        "--address", three_nodes.address, "--max-concurrent", "2",
    )  # fmt: skip
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def epochs():
        if not Path(".lrtune/lrtune.db").exists():
            return 0
        database = StudyDatabase("sqlite:///.lrtune/lrtune.db")
        return (
            sum(r.epochs for r in database.study("stopped").state().records)
            if database.names()
            else 0
        )

    while process.poll() is None and epochs() < 5:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "lrtune: stopped. What was finished is kept: `lrtune resume stopped` goes on from there."
    )
    assert "Traceback" not in err
    records = StudyDatabase("sqlite:///.lrtune/lrtune.db").study("stopped").state().records
    assert all(record.orphaned for record in records if record.state == "running")
    resumed = subprocess.run(
        command("resume", "stopped", "--budget", "3", "--engine", "ray",
                "--address", three_nodes.address, "--max-concurrent", "2", "--quiet"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (resumed.returncode, resumed.stderr) == (0, "")
    records = StudyDatabase("sqlite:///.lrtune/lrtune.db").study("stopped").state().records
    assert not [record for record in records if record.state == "running"]
    assert [record for record in records if record.run.kind == "confirm"]


def test_notes_of_a_run_that_ended_are_not_shown(three_nodes, store, tmp_path):
    ended = []

    def kill_after_its_end(event):
        if isinstance(event, RunEnded) and event.record.run.id == "trial-0001":
            kill(int(event.record.measurements[-1].examples_per_s))
        if isinstance(event, Note):
            ended.append(event.text)

    done, runs = work_on_cluster(
        store, OpenFake(tmp_path), three_nodes.address, emit=kill_after_its_end, max_concurrent=1
    )
    assert not done.failed
    record = next(r for r in store.state().records if r.run.id == "trial-0001")
    assert (record.state, record.epochs) == ("completed", EPOCHS)
    assert "trial-0001" not in runs.retries
