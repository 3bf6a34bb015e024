"""Who is alive: asked of real processes."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from lrtune.store.workers import LEASE_S, NOBODY, is_gone, this_worker


@pytest.fixture
def sleeper():
    """A process that lives until the test ends it, and its name as a worker."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    host, _, _ = this_worker().rsplit("/", 2)
    yield process, f"{host}/{process.pid}/{psutil.Process(process.pid).create_time():.2f}"
    process.kill()
    process.wait()


def test_this_process_is_alive_and_names_itself_alike():
    assert this_worker() == this_worker()
    assert this_worker().split("/")[1] == str(os.getpid())
    assert not is_gone(
        this_worker(), seen_at=0.0
    )  # its silence does not matter: the process table knows better


def test_a_killed_process_is_gone_before_and_after_its_parent_notices(sleeper):
    process, worker = sleeper
    assert not is_gone(worker, time.time())
    process.kill()
    os.waitid(
        os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
    )  # dead, and still in the process table
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert is_gone(worker, time.time())
    process.wait()
    assert is_gone(worker, time.time())


def test_a_later_process_with_the_same_id_is_somebody_else():
    host, pid, created = this_worker().rsplit("/", 2)
    assert is_gone(f"{host}/{pid}/{float(created) - 3600:.2f}", time.time())


@pytest.mark.parametrize(
    ("silence_s", "gone"), [(0.0, False), (LEASE_S - 30, False), (LEASE_S + 30, True)]
)
def test_a_worker_on_another_machine_is_judged_by_its_silence(silence_s, gone):
    assert is_gone("elsewhere.example/1/2.00", time.time() - silence_s) is gone


def test_nobody_is_always_gone():
    assert is_gone(NOBODY, time.time())
