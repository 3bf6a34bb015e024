"""Checkpoints: whole or not at all, checked when read, and under a size limit."""

import os
import resource
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


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 500], ids=["empty", "short", "long"])
def test_what_was_saved_is_loaded_by_another_store(checkpoints, payload):
    checkpoints.save("trial-0001", payload)
    assert CheckpointStore(checkpoints.folder).load("trial-0001") == payload


def test_a_run_without_a_checkpoint_has_none(checkpoints):
    assert checkpoints.load("trial-0001") is None
    checkpoints.drop("trial-0001")  # and there is nothing to drop


def test_the_last_one_saved_counts_and_drop_forgets_it(checkpoints):
    checkpoints.save("a", b"first")
    checkpoints.save("b", b"of another run")
    checkpoints.save("a", b"second")
    assert checkpoints.load("a") == b"second"
    checkpoints.drop("a")
    assert checkpoints.load("a") is None
    assert checkpoints.load("b") == b"of another run"


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
def test_damage_is_noticed_and_the_message_says_what_to_do(checkpoints, damage):
    checkpoints.save("trial-0001", b"weights" * 100)
    path = checkpoints.folder / "trial-0001.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"is damaged.*Delete it") as raised:
        checkpoints.load("trial-0001")
    assert str(path) in str(raised.value)


def test_a_failing_write_leaves_the_old_one_and_nothing_else(checkpoints):
    checkpoints.save("trial-0001", b"old")
    with no_file_larger_than(4096), pytest.raises(StoreError, match=r"trial-0001\.ckpt cannot be written"):
        checkpoints.save("trial-0001", bytes(100_000))
    assert checkpoints.load("trial-0001") == b"old"
    assert names(checkpoints) == ["trial-0001.ckpt"]


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="checkpoints cannot be written to"):
        CheckpointStore(tmp_path / "file" / "study")


# sizes saved in this order, the limit in payload bytes, the runs that are left
@pytest.mark.parametrize(
    ("sizes", "limit", "left"),
    [
        ({"a": 100, "b": 100, "c": 100}, 1000, "abc"),
        ({"a": 100, "b": 100, "c": 100}, 300, "abc"),
        ({"a": 100, "b": 100, "c": 100}, 299, "bc"),
        ({"a": 100, "b": 100, "c": 250}, 300, "c"),
        ({"a": 100, "b": 100, "c": 900}, 300, "c"),  # the one just written stays, however large
        ({"a": 100, "b": 100, "a again": 100}, 150, "a"),
    ],
)
def test_the_least_recently_written_go_first(tmp_path, sizes, limit, left):
    files = len(left)
    checkpoints = CheckpointStore(tmp_path, limit_bytes=limit + max(files, 1) * DIGEST_BYTES)
    for age, (name, size) in enumerate(sizes.items()):
        run_id = name.split()[0]
        checkpoints.save(run_id, bytes(size))
        if (tmp_path / f"{run_id}.ckpt").exists():
            os.utime(tmp_path / f"{run_id}.ckpt", (1e9 + age, 1e9 + age))  # apart, whatever the file system's clock
    assert names(checkpoints) == [f"{run_id}.ckpt" for run_id in left]
