"""Checkpoints: whole or not at all, checked when read, and under a size limit."""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lrtune.core.errors import StoreError
from lrtune.store.checkpoints import CheckpointStore

DIGEST_BYTES = 32


@pytest.fixture
def checkpoints(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints" / "study")


@contextmanager
def no_file_larger_than(num_bytes):
    """A real limit of the system: a write beyond it fails half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


@pytest.mark.parametrize(
    "payload", [b"", b"x", bytes(range(256)) * 500], ids=["empty", "short", "long"]
)
def test_what_was_saved_is_loaded_by_another_store(checkpoints, payload):
    checkpoints.save("1f", payload, 3)
    assert CheckpointStore(checkpoints.folder).load("1f") == payload


def test_a_key_without_a_checkpoint_has_none(checkpoints):
    checkpoints.save("1f0", b"of a key that begins alike", 1)
    assert checkpoints.load("1f") is None
    checkpoints.drop("1f")  # and there is nothing to drop
    assert names(checkpoints) == ["1f0.1.ckpt"]


def test_the_last_one_saved_counts_and_drop_forgets_it(checkpoints):
    checkpoints.save("a", b"first", 3)
    checkpoints.save("b", b"of another key", 3)
    checkpoints.save("a", b"second", 3)
    assert checkpoints.load("a") == b"second"
    checkpoints.drop("a")
    assert checkpoints.load("a") is None
    assert checkpoints.load("b") == b"of another key"


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {
    "a byte of the payload": lambda content: flipped(content, DIGEST_BYTES + 5),
    "a byte of the checksum": lambda content: flipped(content, 0),
    "cut short": lambda content: content[:-1],
    "cut within the checksum": lambda content: content[: DIGEST_BYTES // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_damaged_is_lost(checkpoints, damage):
    checkpoints.save("1f", b"weights" * 100, 3)
    path = checkpoints.folder / "1f.3.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoints.load("1f") is None
    assert names(checkpoints) == []


def test_a_failing_write_leaves_the_old_one_and_nothing_else(checkpoints):
    checkpoints.save("1f", b"old", 3)
    with (
        no_file_larger_than(4096),
        pytest.raises(StoreError, match=r"1f\.3\.ckpt cannot be written"),
    ):
        checkpoints.save("1f", bytes(100_000), 3)
    assert checkpoints.load("1f") == b"old"
    assert names(checkpoints) == ["1f.3.ckpt"]


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="checkpoints cannot be written to"):
        CheckpointStore(tmp_path / "file" / "study")


ASKED = {
    "written": lambda checkpoints: checkpoints.save("1f", b"x", 3),
    "read": lambda checkpoints: checkpoints.load("1f"),
    "removed": lambda checkpoints: checkpoints.drop("1f"),
    "removed among others": lambda checkpoints: checkpoints.keep_only(()),
}


@pytest.mark.parametrize(("done", "ask"), ASKED.items(), ids=ASKED.keys())
def test_a_folder_in_the_place_of_a_checkpoint_is_one_message(checkpoints, done, ask):
    (checkpoints.folder / "1f.3.ckpt").mkdir()
    with pytest.raises(
        StoreError, match=rf"1f\.3\.ckpt cannot be {done.split()[0]}: Is a directory"
    ):
        ask(checkpoints)
    assert names(checkpoints) == ["1f.3.ckpt"]


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
def test_a_file_in_the_place_of_the_folder_is_one_message(checkpoints, ask):
    checkpoints.folder.rmdir()
    checkpoints.folder.write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be (written|listed): Not a directory"):
        ask(checkpoints)


def test_all_but_a_few_are_forgotten_with_what_killed_processes_left(checkpoints):
    for key in ("a", "b", "c", "ab"):
        checkpoints.save(key, key.encode(), 3)
    (checkpoints.folder / "a.3.4711.tmp").write_bytes(b"half of it")
    checkpoints.keep_only({"a", "c", "never saved"})
    assert names(checkpoints) == ["a.3.ckpt", "c.3.ckpt"]
    assert checkpoints.load("c") == b"c"
    checkpoints.keep_only(set())
    assert names(checkpoints) == []


# key, epochs and bytes of what is saved in this order; the limit in payload bytes; the keys that
# are left
EVICTIONS = [
    (["a1 100", "b1 100", "c1 100"], 1000, "abc"),
    (["a1 100", "b1 100", "c1 100"], 300, "abc"),
    (["a1 100", "b1 100", "c1 100"], 299, "bc"),  # of equals the oldest goes first
    (["a1 100", "b1 100", "c1 250"], 300, "c"),
    (
        ["a9 100", "b3 100", "c5 100"],
        299,
        "ac",
    ),  # the one that took the fewest epochs, whatever its age
    (["a9 100", "b3 100", "c5 100"], 199, "c"),  # but never the one just written
    (["a9 100", "b5 100", "c1 100"], 299, "ac"),
    (["a10 100", "b9 100", "c11 100"], 299, "ac"),  # epochs are numbers
    (["a2 100", "b3 500", "c4 100"], 600, "bc"),
    (["a2 100", "b3 500", "c4 100"], 599, "c"),  # no more goes than must
    (["a1 100", "b1 100", "c1 900"], 300, "c"),  # however large it is
    (["a1 100", "b1 100", "a1 100"], 150, "a"),
]


@pytest.mark.parametrize(("saved", "limit", "left"), EVICTIONS)
def test_those_that_took_the_fewest_epochs_go_first(tmp_path, saved, limit, left):
    checkpoints = CheckpointStore(tmp_path, limit_bytes=limit + len(left) * DIGEST_BYTES)
    for age, text in enumerate(saved):
        name, size = text.split()
        checkpoints.save(name[0], bytes(int(size)), int(name[1:]))
        (path,) = tmp_path.glob(f"{name[0]}.*")
        os.utime(path, (1e9 + age, 1e9 + age))  # apart, whatever the file system's clock
    assert "".join(name[0] for name in names(checkpoints)) == left


SAVE_AND_LOAD = """
import sys
from pathlib import Path
from lrtune.store.checkpoints import CheckpointStore

folder, letter, go = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
checkpoints = CheckpointStore(folder)
print("ready", flush=True)
while not go.exists():
    pass
for _ in range(150):
    checkpoints.save("1f", letter.encode() * 200_000, 3)
    assert set(checkpoints.load("1f")) in ({ord("x")}, {ord("y")})
"""


def test_lanes_that_save_the_same_state_do_not_meet(checkpoints):
    def save_often(lane):
        for _ in range(50):
            checkpoints.save("1f", bytes([lane]) * 200_000, 3)

    with ThreadPoolExecutor(4) as lanes:
        list(lanes.map(save_often, range(4)))
    assert len(set(checkpoints.load("1f"))) == 1
    assert names(checkpoints) == ["1f.3.ckpt"]


def test_two_processes_that_save_the_same_state_do_not_meet(checkpoints, tmp_path):
    words = [sys.executable, "-c", SAVE_AND_LOAD, str(checkpoints.folder)]
    both = [
        subprocess.Popen(
            [*words, letter, str(tmp_path / "go")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for letter in "xy"
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert set(checkpoints.load("1f")) in ({ord("x")}, {ord("y")})
    assert names(checkpoints) == ["1f.3.ckpt"]
