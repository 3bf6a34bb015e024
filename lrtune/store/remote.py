"""Checkpoints that several machines share, behind an fsspec URL.

The network between may fail now and then.
"""

import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from lrtune.core.errors import InputError, StoreError, first_line
from lrtune.core.urls import shown, without
from lrtune.store.checkpoints import (
    LIMIT_BYTES,
    SUFFIX,
    CheckpointFiles,
    Checkpoints,
    CheckpointStore,
    File,
)

T = TypeVar("T")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


def shared_checkpoints(place: str, study: str) -> Checkpoints:
    """The checkpoints of one study at a place that machines share.

    The place is a folder, or a URL that fsspec knows.
    """
    if "://" in place:
        return PatientCheckpoints(RemoteCheckpointStore(f"{place.rstrip('/')}/{study}"))
    return PatientCheckpoints(CheckpointStore(Path(place) / study))


class RemoteCheckpointStore(CheckpointFiles):
    """Checkpoints in an object store or any other file system that fsspec knows.

    Its puts are taken to be whole or not at all, as those of object stores are.
    """

    def __init__(self, url: str, *, limit_bytes: int = LIMIT_BYTES):
        """Checkpoints below `url`; over `limit_bytes` those that took the fewest epochs go first.

        Raises:
            InputError: fsspec does not know such a URL, or lacks the package that does.
            StoreError: it cannot be reached.
        """
        self.url = url
        self.limit_bytes = limit_bytes
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError, OSError) as error:
            reason = without(url, first_line(error))
            raise InputError(
                f"`storage_path` must be a URL that fsspec knows, but got {shown(url)!r}: {reason}."
            ) from None
        with self._errors("made"):
            self._fs.makedirs(self._root, exist_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        with self._errors("written"):
            self._fs.pipe_file(f"{self._root}/{name}", content)

    def _read(self, name: str) -> bytes | None:
        with self._errors("read"), suppress(FileNotFoundError):
            content: bytes = self._fs.cat_file(f"{self._root}/{name}")
            return content
        return None

    def _remove(self, name: str) -> None:
        with self._errors("removed"), suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    def _names(self) -> list[str]:
        return [file.name for file in self._files()]

    def _files(self) -> list[File]:
        listed: list[dict[str, Any]] = []
        with (
            self._errors("listed"),
            suppress(FileNotFoundError),
        ):  # an object store has no empty folders
            listed = self._fs.ls(
                self._root, detail=True
            )  # not find(): it takes a place that is away for an empty one
        sizes = {about["name"].rsplit("/", 1)[-1]: about["size"] for about in listed}
        return [
            File(name, size, written_at=0) for name, size in sizes.items() if name.endswith(SUFFIX)
        ]

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system has errors of its own
            reason = without(self.url, str(error))
            raise StoreError(
                f"checkpoints at {shown(self.url)} cannot be {done}: {reason}"
            ) from None


class PatientCheckpoints:
    """Checkpoints that are tried again for a while where their place is away."""

    def __init__(self, checkpoints: Checkpoints, *, patience_s: float = 60.0):
        self._checkpoints = checkpoints
        self._patience_s = patience_s

    def save(self, key: str, payload: bytes, epochs: int) -> None:
        """See `Checkpoints.save`."""
        self._patiently(lambda: self._checkpoints.save(key, payload, epochs))

    def load(self, key: str) -> bytes | None:
        """See `Checkpoints.load`."""
        return self._patiently(lambda: self._checkpoints.load(key))

    def drop(self, key: str) -> None:
        """See `Checkpoints.drop`."""
        self._patiently(lambda: self._checkpoints.drop(key))

    def keep_only(self, keys: Container[str]) -> None:
        """See `Checkpoints.keep_only`."""
        self._patiently(lambda: self._checkpoints.keep_only(keys))

    def _patiently(self, action: Callable[[], T]) -> T:
        deadline, pause_s = time.monotonic() + self._patience_s, FIRST_PAUSE_S
        while True:
            try:
                return action()
            except StoreError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
