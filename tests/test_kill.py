"""`kill -9` at random moments of a search.

Nothing finished is lost or trained again, and the end is the same.
"""

import random
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing

import pytest

SEARCH = (
    "search", "--data", "digits", "--model", "mlp", "--budget", "12", "--epochs", "10",
    "--seeds", "2", "--max-seeds", "2", "--seed", "4", "--looks", "2,5", "--study", "killed",
    "--quiet",
)  # fmt: skip
NUM_KILLS = 6

COUNT_SAVES = """
from lrtune.store.checkpoints import CheckpointStore
save = CheckpointStore.save
def counted(self, key, payload, epochs):
    save(self, key, payload, epochs)
    with open("saves.log", "a") as file:
        print(key, file=file)
CheckpointStore.save = counted
"""
"""A checkpoint is saved under its own key for each epoch that is trained, so this tells what was
trained when."""

UNTIMED = "study, run, epoch, step, lr_first, lr_last, metrics, prefix, reused, again_epochs"


def rows(folder, what):
    """What a query gives; nothing while the database, or its tables, are not there."""
    path = folder / ".lrtune" / "lrtune.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        made = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'lrtune_measurements'"
        ).fetchone()
        return connection.execute(f"SELECT {what} ORDER BY 1, 2, 3").fetchall() if made[0] else []


def measured(folder):
    return set(rows(folder, "* FROM lrtune_measurements"))


def saves(folder):
    path = folder / "saves.log"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def outcome(folder):
    """All that a study says in the end, but for how long it took."""
    lengths = "recipe_epochs, horizon_epochs, stop_epochs"
    runs = rows(
        folder,
        f"id, kind, trial, recipe, {lengths}, seed, state, reason, test FROM lrtune_runs",
    )
    return (
        runs,
        rows(folder, f"{UNTIMED} FROM lrtune_measurements"),
        rows(folder, "range_results, 0, 0 FROM lrtune_studies"),
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0])
def test_a_search_that_is_killed_again_and_again_ends_as_an_unbroken_one(tmp_path, command, seed):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    for folder in (unbroken, killed):
        folder.mkdir()
    subprocess.run(command(*SEARCH), cwd=unbroken, check=True, stdout=subprocess.DEVNULL)
    num_epochs = len(measured(unbroken))

    rng = random.Random(seed)
    kept = set()
    # The first kill comes when there may be nothing yet, the others soon after so many epochs are
    # recorded.
    for num_recorded in [0, *sorted(rng.sample(range(1, num_epochs), NUM_KILLS - 1))]:
        began = rows(killed, "name, 0, 0 FROM lrtune_studies")
        words = ("resume", "killed", "--quiet") if began else SEARCH
        process = subprocess.Popen(
            command(*words, first=COUNT_SAVES), cwd=killed, stdout=subprocess.DEVNULL
        )
        while num_recorded and len(measured(killed)) < num_recorded:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1) if num_recorded else rng.uniform(0, 5))
        process.kill()
        process.wait()
        left = measured(killed)
        assert kept <= left  # every column of every row, the time at which it ended too
        assert len(left) >= num_recorded
        # Not even the epoch whose process was killed between its checkpoint and its measurement is
        # trained again.
        assert {key: n for key, n in saves(killed).items() if n > 1} == {}
        kept = left

    subprocess.run(
        command("resume", "killed", "--quiet"), cwd=killed, check=True, stdout=subprocess.DEVNULL
    )
    assert kept <= measured(killed)
    kinds = {kind for _, kind, _ in rows(killed, "id, kind, trial FROM lrtune_runs")}
    assert kinds == {"baseline", "look", "confirm"}
    assert outcome(killed) == outcome(unbroken)
    assert (killed / "reports" / "killed" / "report.html").is_file()
