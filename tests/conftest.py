"""Fixtures for all tests: the command line as a function, and a small finished study."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # A process a core: two with as many threads as cores are many times slower than one. Torch
    # reads it when imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import sys
from dataclasses import dataclass

import pytest
from hypothesis import settings

from lrtune.cli import main

# Nothing is asserted about the clock: the first optimizer of a process takes seconds, and machines
# are noisy. The examples are the same each time, so that a change is judged by itself;
# LRTUNE_EXPLORE=1 draws new ones.
settings.register_profile("lrtune", deadline=None, derandomize="LRTUNE_EXPLORE" not in os.environ)
settings.load_profile("lrtune")

TINY = (
    "search", "--data", "digits", "--model", "mlp", "--budget", "3", "--epochs", "2",
    "--seeds", "1", "--max-seeds", "1", "--train-size", "200", "--val-size", "100",
    "--pruner", "none", "--study", "tiny",
)  # fmt: skip
"""Six runs at most of two epochs of four steps."""


@dataclass(frozen=True)
class Outcome:
    """What a command line came to."""

    code: int
    out: str
    err: str


def pytest_configure(config):
    """Hides the GPUs from all tests that are not for one.

    They expect the numbers of a CPU, and several run at once.
    """
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in (
        "FORCE_COLOR",
        "NO_COLOR",
        "COLUMNS",
        "LINES",
        "TTY_COMPATIBLE",
        "TTY_INTERACTIVE",
    ):
        os.environ.pop(name, None)  # a terminal is as the tests say


@pytest.fixture(scope="session")
def tiny():
    """A search that takes a second."""
    return TINY


@pytest.fixture
def call(monkeypatch, capsys):
    """`call("search", "--budget", "3")` as `lrtune search --budget 3`, in this process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # faster for tasks as small, on a busy machine too

    def call_with(*words):
        monkeypatch.setattr(sys, "argv", ["lrtune", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as done:
            code = done.code or 0
        return Outcome(code, *capsys.readouterr())

    return call_with


@pytest.fixture
def command():
    """Returns the words that start `lrtune` in a process of its own.

    `command("search", "--budget", "3")` starts `lrtune search --budget 3`, after the code in
    `first`.
    """

    def words_of(*words, first=""):
        program = (
            f"{first}\n"
            "import os, sys; os.environ['OMP_NUM_THREADS'] = '1'; sys.argv[0] = 'lrtune'\n"
            "from lrtune.cli import main; main()"
        )
        return [sys.executable, "-c", program, *words]

    return words_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory):
    """The folder in which `TINY` was run to its end, and what it printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("finished")
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(sys, "argv", ["lrtune", *TINY])
        main()
    return folder, Outcome(0, out.getvalue(), err.getvalue())


@pytest.fixture
def finished(finished_folder, here):
    """A copy of that study in the working directory; what it printed."""
    folder, outcome = finished_folder
    shutil.copytree(folder, here, dirs_exist_ok=True)
    return outcome
