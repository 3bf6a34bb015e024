"""A training command on a real cluster: its numbers, its GPUs, and that nothing of it is left."""

import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

pytest.importorskip("ray")

import lrtune
from lrtune.schedules.compress import schedule_of
from tests.studies import timeless
from tests.training.command.scripts import alive, lrs_of, python, quadratic, same_lrs

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SEARCH = (
    "search", "--metric", "val_loss", "--sampler", "random", "--pruner", "none", "--seeds", "2",
    "--max-seeds", "2", "--quiet",
)  # fmt: skip
TOOLS = """
def note(*words):
    with open(os.path.join(os.environ["LRTUNE_RUN_DIR"], "noted"), "a") as file:
        print(*words, file=file)

def parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])

supervisor = os.getppid()
worker = parent(supervisor)
raylet = parent(worker)
"""
"""What the scripts tell of themselves, and of the processes that have started them."""
SECONDS = 60.0
"""The longest that a test waits for anything."""


@pytest.fixture(autouse=True)
def reports_without_pictures(monkeypatch):
    monkeypatch.setattr("lrtune.app.results.write_report", lambda report, folder: None)


def waited(holds):
    """Whether something comes to hold."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


def on(cluster):
    return ("--engine", "ray", "--address", cluster.address)


def noted_in(folder):
    """The lines that each run has noted, by the names of the runs."""
    files = folder.glob("*/files/noted")
    return {file.parents[1].name: file.read_text().splitlines() for file in files}


def numbers(state):
    """What was measured in each run, by what was trained."""
    return {
        (record.run.recipe, record.run.seed, record.run.stop_epochs): repr(
            timeless(record.measurements, prefix="", reused=False)
        )
        for record in state.records
    }


def test_a_command_has_the_lrs_of_its_recipes_and_the_numbers_of_the_local_engine(
    three_nodes, here, call
):
    script = quadratic(here / "code", start=TOOLS, epoch="time.sleep(0.1); note(raylet)")
    train = ("--budget", "4", "--", *python(script))
    remote = call(*SEARCH, "--study", "remote", *on(three_nodes), *train)
    assert remote.code == 0, remote.err
    quadratic(here / "code", start=TOOLS)
    local = call(*SEARCH, "--study", "local", *train)
    assert local.code == 0, local.err
    state = lrtune.load("remote").state
    assert {record.state for record in state.records} == {"completed"}
    on_cluster, alone = numbers(state), numbers(lrtune.load("local").state)
    both = on_cluster.keys() & alone.keys()
    assert len(both) >= 6
    assert {key: on_cluster[key] for key in both} == {key: alone[key] for key in both}
    folder = here / ".lrtune" / "runs" / "remote"
    for record in state.records:
        if record.run.trial >= 0:
            noted = lrs_of(folder / record.run.id)
            schedule = schedule_of(record.run, steps_per_epoch=5)
            expected = [record.run.recipe.peak_lr * schedule(step) for step in range(len(noted))]
            assert same_lrs(noted, expected)
    assert len({raylet for lines in noted_in(folder).values() for raylet in lines}) == 3


@pytest.fixture
def node_with_gpus(three_nodes, monkeypatch):
    """A node that says it has four GPUs, and room for two trials of two."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    node = three_nodes.add_node(num_cpus=2, num_gpus=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield three_nodes
    three_nodes.remove_node(node)


def test_two_runs_side_by_side_see_two_gpus_each_and_not_the_same(node_with_gpus, here, call):
    see = "note(os.environ['CUDA_VISIBLE_DEVICES'], time.time())"
    script = quadratic(here / "code", start=f"{TOOLS}\n{see}", epoch=f"time.sleep(0.1); {see}")
    words = (*SEARCH, "--study", "x", "--budget", "3", *on(node_with_gpus))
    done = call(*words, "--gpus-per-trial", "2", "--", *python(script))
    assert done.code == 0, done.err
    runs = noted_in(here / ".lrtune" / "runs" / "x").values()
    seen = {}  # when each run saw which devices
    for lines in runs:
        (devices,) = {line.split()[0] for line in lines}
        times = [float(line.split()[1]) for line in lines]
        seen[times[0], times[-1]] = set(devices.split(","))
    assert {len(devices) for devices in seen.values()} == {2}
    together = [
        (one, other) for one, other in itertools.combinations(sorted(seen), 2) if other[0] < one[1]
    ]
    assert together
    assert all(seen[one].isdisjoint(seen[other]) for one, other in together)


# --- what dies, or is ended


def commands_in(folder):
    """The processes of the commands that run for a study."""
    return alive(f"LRTUNE_STEER={folder}")


def epochs_of(study):
    """Measurements of the runs that are trained on the cluster; 0 before the study begins."""
    try:
        records = lrtune.load(study).state.records
    except lrtune.InputError:
        return 0
    return sum(record.epochs for record in records if record.run.id != "baseline-0")


@pytest.fixture
def call_and_strike(three_nodes, here, call):
    """Searches, and calls a function once the cluster trains; its result, and that of the search.

    It is handed a process that has a command.
    """
    slow = "time.sleep(0.3 * (MODE != 'sweep' and not os.path.exists('struck')))"
    script = quadratic(here / "code", start=TOOLS, epoch=slow)
    two = ("--budget", "2", "--max-concurrent", "2")
    words = (*SEARCH, "--study", "x", *two, *on(three_nodes), "--", *python(script))
    folder = here / ".lrtune" / "runs" / "x"

    def struck(strike):
        assert waited(lambda: epochs_of("x") >= 3 and commands_in(folder))
        result = strike(psutil.Process(commands_in(folder)[0]))
        (here / "struck").touch()
        return result

    def search(strike):
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(struck, strike)
            done = call(*words)
            return result.result(), done, folder

    return search


def test_the_worker_process_that_has_a_command_is_killed(call_and_strike):
    def kill_worker(command):
        worker = command.parent().parent()
        below = worker.children(recursive=True)
        assert command in below
        worker.kill()
        return waited(lambda: not any(process.is_running() for process in below))

    has_ended, done, folder = call_and_strike(kill_worker)
    assert has_ended
    assert done.code == 0, done.err
    state = lrtune.load("x").state
    assert {record.state for record in state.records} == {"completed"}
    assert [record.retries for record in state.records if record.retries] == [1]
    assert not commands_in(folder)


def test_ctrl_c_of_the_driver_ends_all_commands_and_the_study_goes_on(
    call_and_strike, three_nodes, call
):
    _, stopped, folder = call_and_strike(lambda command: os.kill(os.getpid(), signal.SIGINT))
    assert stopped.code == 130, stopped.err
    assert "lrtune: stopped. What was finished is kept: `lrtune resume x` goes on" in stopped.err
    assert "Traceback" not in stopped.err
    assert waited(lambda: not commands_in(folder))
    done = call("resume", "x", "--quiet", *on(three_nodes))
    assert done.code == 0, done.err
    state = lrtune.load("x").state
    assert {record.state for record in state.records} == {"completed"}
    assert not commands_in(folder)
