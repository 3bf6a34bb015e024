"""Searches in front of a command that are interrupted: nothing is left, and they go on."""

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest

import lrtune.app.results as lrtune_results
from lrtune.cli import main
from lrtune.store.database import StudyStore
from tests.training.command.scripts import alive, python, quadratic

WORDS = (
    "search", "--metric", "val_loss", "--budget", "4", "--seeds", "2", "--max-seeds", "2",
    "--looks", "2,4", "--study", "x", "--quiet",
)  # fmt: skip
SECONDS = 60.0
"""The longest that a test waits for anything."""


def waited(holds):
    """Whether something comes to hold."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def slow_script(folder, **more):
    """A script whose epochs take long enough to be interrupted."""
    return quadratic(folder / "code", **({"epoch": "time.sleep(0.03)"} | more))


def lrtune(folder, *words, first=lambda: None):
    """Starts lrtune in a copy of this process, which has all imported already, after `first`."""

    def run():
        os.setsid()
        os.chdir(folder)
        sys.argv = ["lrtune", *words]
        lrtune_results.write_report = lambda report, folder: None
        first()
        with (
            open("printed", "a") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            try:
                main()
                code = 0
            except SystemExit as done:
                code = done.code or 0
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def rows(folder, what):
    path = folder / ".lrtune" / "lrtune.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        made = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'lrtune_measurements'"
        ).fetchone()
        return connection.execute(f"SELECT {what} ORDER BY 1, 2, 3").fetchall() if made[0] else []


def outcome(folder):
    """All that a study says in the end, but for how long it took."""
    lengths = "recipe_epochs, horizon_epochs, stop_epochs"
    return (
        rows(folder, f"id, kind, trial, recipe, {lengths}, seed, state, reason FROM lrtune_runs"),
        rows(
            folder,
            "run, epoch, step, lr_first, lr_last, metrics, reused FROM lrtune_measurements",
        ),
        rows(folder, "range_results, 0, 0 FROM lrtune_studies"),
    )


def left(folder):
    """The processes of commands that still run."""
    return alive(f"LRTUNE_STEER={folder}")


class InFolder:
    """A moment that is seen from outside: a number of runs have written a file."""

    def __init__(self, pattern, count=1):
        self.pattern, self.count = f".lrtune/runs/{pattern}", count

    def has_come(self, folder):
        return len(list(folder.glob(self.pattern))) >= self.count


class AfterCall:
    """A moment that lrtune itself comes to: right after a call of a function or method."""

    def __init__(self, owner, name, is_meant=lambda *arguments: True):
        self.owner, self.name, self.is_meant = owner, name, is_meant

    def kill_there(self):
        """Lets this process be killed once it comes to the moment."""
        function = getattr(self.owner, self.name)

        def call(*arguments):
            function(*arguments)
            if self.is_meant(*arguments):
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(self.owner, self.name, call)


def in_run(kind, epoch):
    """Right after an epoch was recorded, but for the baseline's first run, which is replayed."""

    def is_meant(_, run, measurement):
        return (run.kind, measurement.epoch) == (kind, epoch) and run.id != "baseline-0"

    return AfterCall(StudyStore, "record", is_meant)


MOMENTS = {
    "the first run, before its first step": InFolder("recorded-*/run/process.json"),
    "the first run": InFolder("recorded-*/run/steps.bin"),
    "the first sweep": InFolder("x/sweep-*/board.bin"),
    "the second sweep": InFolder("x/sweep-*/board.bin", 2),
    "the first look": in_run("look", 1),
    "the second look": in_run("look", 3),
    "between the last epoch of a look and its end": in_run("look", 4),
    "the confirmation": in_run("confirm", 6),
    "the baseline": in_run("baseline", 4),
    "the report": AfterCall(lrtune_results, "write_report"),
}
"""At which lrtune is killed, in the order in which a search comes to them."""

SLOW_START = "time.sleep(0.5 * (MODE == 'record'))"
PLATEAUS = """
[parameters]
peak_lr = { low = 0.2, high = 0.6, log = true }
decay = "plateau"
[decay.plateau]
factor = { choices = [0.3, 0.5] }
patience_epochs = 0
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("script", "space", "moments"),
    [
        ({"start": SLOW_START}, "", list(MOMENTS)),
        (
            {
                "start": f"import lrtune; {SLOW_START}",
                "show": "lrtune.report(val_loss=val_loss)",
            },
            PLATEAUS,
            list(MOMENTS)[4:9],
        ),
    ],
    ids=["printed", "handed over"],
)
def test_a_search_that_is_killed_ten_times_ends_as_an_unbroken_one(
    tmp_path, script, space, moments
):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    for folder in (unbroken, killed):
        slow_script(folder, **script)
        (folder / "space.toml").write_text(space)
    words = (*WORDS, *(("--space", "space.toml") if space else ()), "--", *python("code/train.py"))
    process = lrtune(unbroken, *words)
    process.join()
    assert process.exitcode == 0, (unbroken / "printed").read_text()
    for name in moments:
        moment = MOMENTS[name]
        begun = rows(killed, "name, 0, 0 FROM lrtune_studies")
        again = ("resume", "x", "--quiet") if begun else words
        if isinstance(moment, AfterCall):
            process = lrtune(killed, *again, first=moment.kill_there)
        else:
            process = lrtune(killed, *again)
            assert waited(partial(moment.has_come, killed)), name
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, name
    process = lrtune(killed, "resume", "x", "--quiet")
    process.join()
    assert process.exitcode == 0, (killed / "printed").read_text()
    assert outcome(killed) == outcome(unbroken)
    assert waited(lambda: not left(killed))


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
def test_ctrl_c_ends_the_command_and_the_study_goes_on(tmp_path, command, stubborn):
    start = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
    slow_script(tmp_path, start=start, epoch="time.sleep(0.3)")
    words = command(*WORDS, "--", *python("code/train.py"))
    process = subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert waited(lambda: rows(tmp_path, "* FROM lrtune_measurements WHERE run LIKE 'trial-0000%'"))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "lrtune: stopped. What was finished is kept: `lrtune resume x` goes on" in said
    assert "Traceback" not in said
    assert waited(lambda: not left(tmp_path))  # the supervisor may still be at it
    again = lrtune(tmp_path, "resume", "x", "--quiet")
    assert waited(lambda: rows(tmp_path, "* FROM lrtune_measurements WHERE run LIKE 'trial-0003%'"))
    os.kill(again.pid, signal.SIGINT)
    again.join()
    assert again.exitcode == 130
    assert waited(lambda: not left(tmp_path))  # the supervisor may still be at it


@pytest.mark.slow
def test_ctrl_c_in_the_first_run(tmp_path, command):
    slow_script(tmp_path, epoch="time.sleep(1)")
    words = command(*WORDS, "--", *python("code/train.py"))
    process = subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert waited(lambda: list(tmp_path.glob(".lrtune/runs/recorded-*/run/steps.bin")))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "lrtune: stopped." in said
    assert "Traceback" not in said
    assert not left(tmp_path)


@pytest.mark.slow
def test_ctrl_c_of_an_applied_schedule_ends_the_command(tmp_path, command):
    slow_script(tmp_path, epoch="pass")
    process = lrtune(tmp_path, *WORDS, "--", *python("code/train.py"))
    process.join()
    assert process.exitcode == 0, (tmp_path / "printed").read_text()
    script = quadratic(tmp_path / "code", name="long.py", epoch="time.sleep(0.5)", epochs="1000")
    process = subprocess.Popen(
        command("apply", "x", "--", *python(script)),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline().startswith("epoch 0 val_loss: ")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert said.count("Traceback") == 1  # that of the script
    assert not left(tmp_path)


@pytest.mark.slow
def test_two_jobs(tmp_path, command):
    slow_script(tmp_path)
    words = (*WORDS, "--jobs", "2", "--", *python("code/train.py"))
    process = subprocess.Popen(
        command(*words), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert waited(lambda: rows(tmp_path, "* FROM lrtune_measurements WHERE run = 'baseline-1'"))
    assert waited(lambda: left(tmp_path))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not left(tmp_path)
    done = subprocess.run(
        command("resume", "x", "--jobs", "2", "--quiet"), cwd=tmp_path, capture_output=True,
        text=True, timeout=SECONDS * 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = {state for state, *_ in rows(tmp_path, "state, 0, 0 FROM lrtune_runs")}
    assert ends == {"completed"}
    assert not left(tmp_path)
