"""Checkpoints that several machines share: behind an fsspec URL, and behind a network that fails now and then."""

import time
from collections.abc import Callable, Container, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from lrtune.core.errors import InputError, StoreError, first_line, shown
from lrtune.store.checkpoints import LIMIT_BYTES, SUFFIX, Checkpoints, CheckpointStore, sealed, unsealed

T = TypeVar("T")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


def shared_checkpoints(place: str, study: str) -> Checkpoints:
    """The checkpoints of one study below a folder that machines share, or a URL that fsspec knows."""
    if "://" in place:
        return PatientCheckpoints(RemoteCheckpointStore(f"{place.rstrip('/')}/{study}"))
    return PatientCheckpoints(CheckpointStore(Path(place) / study))


class RemoteCheckpointStore:
    """The checkpoints of one study in an object store or any other file system that fsspec knows.

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
            said = shown(first_line(error))
            raise InputError(
                f"`storage_path` must be a URL that fsspec knows, but got {shown(url)!r}: {said}."
            ) from None
        self._try("made", lambda: self._fs.makedirs(self._root, exist_ok=True))

    def save(self, key: str, payload: bytes, epochs: int) -> None:
        """Keeps a state that took `epochs` epochs.

        Raises:
            StoreError: it cannot be written.
        """
        path = f"{self._root}/{key}.{epochs}{SUFFIX}"
        self._try("written", lambda: self._fs.pipe_file(path, sealed(payload)))
        self._evict(keep=path)

    def load(self, key: str) -> bytes | None:
        """The state under `key`; `None` where there is none, or a damaged one, which is dropped.

        Raises:
            StoreError: it cannot be reached.
        """
        for path in self._paths(key):
            try:
                payload = unsealed(self._try("read", partial(self._fs.cat_file, path)))
            except FileNotFoundError:  # another process was faster
                return None
            if payload is None:
                self._remove([path])
            return payload
        return None

    def drop(self, key: str) -> None:
        """Forgets the state under `key`, if there is one."""
        self._remove(self._paths(key))

    def keep_only(self, keys: Container[str]) -> None:
        """Forgets all other states."""
        self._remove(path for path in self._entries() if _name(path).split(".")[0] not in keys)

    def _paths(self, key: str) -> list[str]:
        return [path for path in self._entries() if _name(path).startswith(f"{key}.")]

    def _entries(self) -> dict[str, dict[str, Any]]:
        """What there is, by path."""
        try:  # not find(), which takes a place that cannot be reached for an empty one
            found: list[dict[str, Any]] = self._try("listed", lambda: self._fs.ls(self._root, detail=True))
        except FileNotFoundError:  # an object store has no empty folders
            return {}
        return {about["name"]: about for about in found if about["name"].endswith(SUFFIX)}

    def _remove(self, paths: Iterable[str]) -> None:
        for path in list(paths):
            try:
                self._try("removed", partial(self._fs.rm_file, path))
            except FileNotFoundError:
                continue

    def _evict(self, keep: str) -> None:
        """Drops what took the fewest epochs until the rest fits; never `keep`."""
        entries = self._entries()
        total = sum(about["size"] for about in entries.values())
        for path in sorted(entries, key=lambda path: int(_name(path).split(".")[1])):
            if total <= self.limit_bytes:
                break
            if _name(path) != _name(keep):
                self._remove([path])
                total -= entries[path]["size"]

    def _try(self, done: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except FileNotFoundError as error:
            if done in ("made", "written"):
                raise StoreError(f"checkpoints at {shown(self.url)} cannot be {done}: {shown(str(error))}") from error
            raise
        except Exception as error:  # each file system has errors of its own
            raise StoreError(f"checkpoints at {shown(self.url)} cannot be {done}: {shown(str(error))}") from error


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


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
