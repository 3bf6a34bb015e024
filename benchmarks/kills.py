"""`kill -9` at random moments and at chosen places of searches, and what was lost of them.

    python benchmarks/kills.py --kind local --kills 500 --json benchmarks/results/kills.json

A round is one study: its search is killed several times, each time resumed, and in the end it is
compared with the same search that nobody killed. Half of the kills come at a random time, the
others right after a random call of one of `PLACES`. After each kill the database must be whole, no
epoch that was recorded may be missing or changed, no epoch may have been trained twice, and no
process of the search may be left. In the end no run may still be called running, and the runs,
their LRs and metrics, and the report must be those of the unbroken search.

Each round is added to the file as it ends. The same command, stopped and called again, goes on with
the next seeds until there are as many kills as were asked for.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from lrtune.core.recipe import default_recipe
from lrtune.core.study import TrainSettings
from lrtune.training.native.devices import describe_environment

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60.0
"""The longest that processes may take to notice that the search is gone."""
NUM_KILLS = 6
"""At most so many in a round."""
STUDY = "killed"
DIGITS = (
    "search", "--data", "digits", "--model", "mlp", "--budget", "8", "--epochs", "6",
    "--seeds", "2", "--max-seeds", "2", "--seed", "4", "--looks", "2,3", "--study", STUDY,
    "--quiet",
)  # fmt: skip
SCRIPT = """
import torch

torch.manual_seed(0)
inputs = torch.randn(256, 8)
targets = inputs.sum(1, keepdim=True)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
for epoch in range(6):
    for part in range(0, 256, 32):
        loss = (model(inputs[part : part + 32]) - targets[part : part + 32]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch} val_loss: {(model(inputs) - targets).square().mean().item():.6g}")
"""
COMMAND = (
    "search", "--metric", "val_loss:min", "--budget", "4", "--seeds", "2", "--max-seeds", "2",
    "--looks", "2,4", "--study", STUDY, "--quiet", "--", sys.executable, "train.py",
)  # fmt: skip
KINDS: dict[str, tuple[str, ...]] = {
    "local": (*DIGITS, "--jobs", "1"),
    "jobs": (*DIGITS, "--jobs", "2"),
    "lanes": (*DIGITS, "--jobs", "1", "--lanes", "2"),
    "command": (*COMMAND[:-3], "--jobs", "1", *COMMAND[-3:]),
    "ray": (*DIGITS, "--engine", "ray", "--max-concurrent", "3", "--address", "{address}"),
}
"""What is searched. A kind's own words come last, but for those of a command."""
PLACES = {
    "lrtune.store.database:StudyDatabase.create": 1,
    "lrtune.store.database:StudyStore.record_ranges": 1,
    "lrtune.store.database:StudyStore.claim": 5,
    "lrtune.store.database:StudyStore.record": 20,
    "lrtune.store.database:StudyStore.finish": 5,
    "lrtune.store.checkpoints:CheckpointStore.save": 20,
    "lrtune.reporting.files:write_report": 1,
}
"""After which calls a search is killed, and after how many at most."""


@dataclass
class Tally:
    """What came of the kills of one kind."""

    rounds: int = 0
    kills: int = 0
    kills_at_places: int = 0
    epochs_lost: int = 0
    epochs_trained_twice: int = 0
    databases_damaged: int = 0
    processes_left: int = 0
    runs_left_running: int = 0
    other_runs: int = 0
    other_reports: int = 0
    failed: list[str] = field(default_factory=list)
    """Rounds whose search ended with another code than 0, and what it said."""


def main() -> None:
    """Kills, and adds up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "kills", "environment": {}, "kinds": {}}
    if given.json.exists():
        result = json.loads(given.json.read_text())
    result["environment"] = dict(describe_environment(TrainSettings(), default_recipe("sgd")))
    tally = Tally(**result["kinds"].get(given.kind, {}))
    with tempfile.TemporaryDirectory() as folder, cluster_of(given.kind) as address:
        unbroken = search(Path(folder, "unbroken"), given.kind, address)
        while tally.kills < given.kills:
            killed = Path(folder, "killed")
            kill_again_and_again(killed, unbroken, given.kind, address, tally.rounds, tally)
            shutil.rmtree(killed)
            result["kinds"][given.kind] = asdict(tally)
            given.json.write_text(json.dumps(result, indent=1) + "\n")
            print(json.dumps({given.kind: asdict(tally)}), flush=True)


@contextmanager
def cluster_of(kind: str) -> Iterator[str]:
    """The address of a Ray cluster of three nodes, where the kind needs one."""
    if kind != "ray":
        yield ""
        return
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def search(folder: Path, kind: str, address: str = "") -> Path:
    """A search that nobody kills, in a folder of its own."""
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    done = start(folder, *words_of(kind, address))
    if done.wait():
        raise RuntimeError((folder / "printed").read_text())
    return folder


def kill_again_and_again(
    folder: Path, unbroken: Path, kind: str, address: str, seed: int, tally: Tally
) -> None:
    """One round; what was lost is added to the tally."""
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    rng = random.Random(f"{kind} {seed}")
    kept: set[Any] = set()
    took = seconds_of(unbroken)
    for _ in range(NUM_KILLS):
        began = rows(folder, "name, 0, 0 FROM lrtune_studies")
        place, nth, seconds = None, 0, rng.uniform(0, took)
        if rng.random() < 0.5:
            place = rng.choice([name for name in PLACES if not (began and "create" in name)])
            nth = rng.randint(1, PLACES[place])
        words = ("resume", STUDY, "--quiet") if began else words_of(kind, address)
        process = start(folder, *words, place=place, nth=nth)
        if place is None:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                kept |= measured(folder)
                process.kill()
        if process.wait() != -signal.SIGKILL:  # it came to its end before
            _note_failure(tally, folder, seed, process.returncode)
            continue
        tally.kills += 1
        tally.kills_at_places += place is not None
        tally.processes_left += not none_left(folder)
        tally.databases_damaged += not is_whole(folder)
        left = measured(folder)
        tally.epochs_lost += len(kept - left)
        kept = left
    process = start(folder, "resume", STUDY, "--quiet")
    if not rows(folder, "name, 0, 0 FROM lrtune_studies"):
        process.wait()
        process = start(folder, *words_of(kind, address))
    if process.wait():
        _note_failure(tally, folder, seed, process.returncode)
    tally.epochs_lost += len(kept - measured(folder))
    tally.epochs_trained_twice += sum(n - 1 for n in saves(folder).values())
    tally.runs_left_running += len(
        rows(folder, "id, 0, 0 FROM lrtune_runs WHERE state = 'running'")
    )
    tally.other_runs += outcome(folder) != outcome(unbroken)
    tally.other_reports += told(folder) != told(unbroken)
    tally.rounds += 1


def _note_failure(tally: Tally, folder: Path, seed: int, code: int) -> None:
    if code:
        said = (folder / "printed").read_text().strip().splitlines()
        tally.failed.append(f"round {seed}, code {code}: {said[-1] if said else ''}")


def words_of(kind: str, address: str) -> tuple[str, ...]:
    """The words of a kind's search."""
    return tuple(word.format(address=address) for word in KINDS[kind])


def start(folder: Path, *words: str, place: str | None = None, nth: int = 0) -> Any:
    """Starts lrtune in a process of its own, which may kill itself at a place."""
    program = (
        f"from benchmarks import kills; kills.prepare({place!r}, {nth}); "
        "import sys; sys.argv[0] = 'lrtune'; from lrtune.cli import main; main()"
    )
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "LRTUNE_CAMPAIGN": str(folder), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with (folder / "printed").open("a") as printed:
        return subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=folder, env=environment, stdout=printed, stderr=printed, start_new_session=True,
        )  # fmt: skip


def prepare(place: str | None, nth: int) -> None:
    """Notes each checkpoint that is saved, and kills this process right after some call.

    A checkpoint is saved under its own key for each epoch that is trained, so its name tells what
    was trained when.
    """
    _after("lrtune.store.checkpoints:CheckpointStore.save", _note_save)
    if place is not None:
        calls = iter(range(1, nth))

        def strike(*_: Any) -> None:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        _after(place, strike)


def _note_save(_: object, key: str, *__: object) -> None:
    with open("saves.log", "a") as file:
        print(key, file=file)


def _after(place: str, action: Callable[..., None]) -> None:
    module, names = place.split(":")
    *owners, name = names.split(".")
    owner: Any = import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    function = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        action(*args)
        return result

    setattr(owner, name, call)


def rows(folder: Path, what: str) -> list[Any]:
    """What a query gives; nothing while the database, or its tables, are not there."""
    path = folder / ".lrtune" / "lrtune.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        made = connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'lrtune_measurements'"
        ).fetchone()
        return connection.execute(f"SELECT {what} ORDER BY 1, 2, 3").fetchall() if made[0] else []


def measured(folder: Path) -> set[Any]:
    """Every measurement with all its columns, the time at which it ended too."""
    return set(rows(folder, "* FROM lrtune_measurements"))


def is_whole(folder: Path) -> bool:
    """Whether SQLite finds nothing wrong with the database."""
    path = folder / ".lrtune" / "lrtune.db"
    if not path.exists():
        return True
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def saves(folder: Path) -> Counter[str]:
    """How often each checkpoint was saved."""
    path = folder / "saves.log"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def outcome(folder: Path) -> tuple[Any, ...]:
    """All that a study holds in the end, but for how long it took and what trained it."""
    lengths = "recipe_epochs, horizon_epochs, stop_epochs"
    return (
        rows(
            folder,
            f"id, kind, trial, recipe, {lengths}, seed, state, reason, test FROM lrtune_runs",
        ),
        rows(folder, "run, epoch, step, lr_first, lr_last, metrics FROM lrtune_measurements"),
        rows(folder, "range_results, 0, 0 FROM lrtune_studies"),
    )


def told(folder: Path) -> Any:
    """What the report recommends, and why, but for how long it took."""
    path = folder / "reports" / STUDY / "report.json"
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    contenders = [contender | {"seconds": None} for contender in report["contenders"]]
    return [report["recommendation"], contenders, report["looks"], report["left"]]


def seconds_of(folder: Path) -> float:
    """How long an unbroken search took, from its start to its last epoch."""
    ended = [row[0] for row in rows(folder, "ended_at, 0, 0 FROM lrtune_measurements")]
    return float(max(ended) - (folder / "train.py").stat().st_mtime)


def none_left(folder: Path) -> bool:
    """Whether all that a search had started ends in time."""
    deadline = time.monotonic() + SECONDS
    while any(_is_of(process, folder) for process in psutil.process_iter()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get("LRTUNE_CAMPAIGN") == str(folder) and process.is_running()
    except psutil.Error:
        return False


if __name__ == "__main__":
    main()
