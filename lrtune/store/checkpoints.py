"""Checkpoints: one file for each state of training, with its own checksum.

The files of a study stay under a size limit. A file is the SHA-256 of its payload (32 bytes) and
the payload. What the payload is, is the business of whoever saves it: this room neither knows torch
nor unpickles anything. Any file may go at any time: that costs epochs, no result.
"""

import hashlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from lrtune.core.errors import StoreError

SUFFIX = ".ckpt"
LIMIT_BYTES = 20 * 2**30
_TEMPORARY = ".tmp"
_DIGEST_BYTES = 32


class Checkpoints(Protocol):
    """Checkpoints in whatever place.

    Each method raises `StoreError` where the place cannot be reached.
    """

    def save(self, key: str, payload: bytes, epochs: int) -> None:
        """Keeps a state that took `epochs` epochs.

        A kill at any moment leaves all of it or nothing.
        """

    def load(self, key: str) -> bytes | None:
        """The state under `key`; `None` where there is none, or a damaged one, which is dropped."""

    def drop(self, key: str) -> None:
        """Forgets the state under `key`, if there is one."""

    def keep_only(self, keys: Container[str]) -> None:
        """Forgets all other states."""


class File(NamedTuple):
    """What eviction has to know of a checkpoint."""

    name: str
    num_bytes: int
    written_at: float
    """Seconds since 1970; 0 where the place does not say."""


class CheckpointFiles(ABC):
    """The checkpoints of one study as files named `KEY.EPOCHS.ckpt`.

    A subclass knows the place where they lie. Other processes save and remove files
    there as well, so a file that is gone is no error.
    """

    limit_bytes: int

    def save(self, key: str, payload: bytes, epochs: int) -> None:
        """See `Checkpoints.save`."""
        name = f"{key}.{epochs}{SUFFIX}"
        self._write(name, _sealed(payload))
        self._evict(keep=name)

    def load(self, key: str) -> bytes | None:
        """See `Checkpoints.load`."""
        for name in self._names_of(key):
            content = self._read(name)
            if content is None:
                break
            payload = _unsealed(content)
            if payload is None:
                self._remove(name)
            return payload
        return None

    def drop(self, key: str) -> None:
        """See `Checkpoints.drop`."""
        for name in self._names_of(key):
            self._remove(name)

    def keep_only(self, keys: Container[str]) -> None:
        """See `Checkpoints.keep_only`."""
        for name in self._names():
            if name.split(".")[0] not in keys:
                self._remove(name)

    def _names_of(self, key: str) -> list[str]:
        return [name for name in self._names() if name.startswith(f"{key}.")]

    def _evict(self, keep: str) -> None:
        """Drops checkpoints until the rest fits, but never `keep`.

        Those that took the fewest epochs go first, and of equals the oldest.
        """
        files = self._files()
        total = sum(file.num_bytes for file in files)
        for file in sorted(files, key=lambda file: (int(file.name.split(".")[1]), file.written_at)):
            if total <= self.limit_bytes:
                break
            if file.name != keep:
                self._remove(file.name)
                total -= file.num_bytes

    @abstractmethod
    def _write(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all."""

    @abstractmethod
    def _read(self, name: str) -> bytes | None:
        """A file's content; `None` where it is gone."""

    @abstractmethod
    def _remove(self, name: str) -> None:
        """Removes a file, unless it is gone."""

    @abstractmethod
    def _names(self) -> list[str]:
        """Of all checkpoints, which a folder tells sooner than their sizes."""

    @abstractmethod
    def _files(self) -> list[File]:
        """All checkpoints."""


class CheckpointStore(CheckpointFiles):
    """Checkpoints in a folder."""

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES):
        """Checkpoints in `folder`, which is created.

        Over `limit_bytes` those that took the fewest epochs go first.
        """
        self.folder = folder
        self.limit_bytes = limit_bytes
        with _errors(f"checkpoints cannot be written to {folder}"):
            folder.mkdir(parents=True, exist_ok=True)

    def keep_only(self, keys: Container[str]) -> None:
        """See `Checkpoints.keep_only`; what killed processes left half-written goes too."""
        super().keep_only(keys)
        for name in self._names(_TEMPORARY):
            self._remove(name)

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        temporary = path.with_suffix(
            f".{uuid.uuid4().hex}{_TEMPORARY}"
        )  # several lanes may come to the same state
        with _errors(f"checkpoint {path} cannot be written"):
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        path = self.folder / name
        with _errors(f"checkpoint {path} cannot be read"), suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def _remove(self, name: str) -> None:
        path = self.folder / name
        with _errors(f"checkpoint {path} cannot be removed"):
            path.unlink(missing_ok=True)

    def _names(self, suffix: str = SUFFIX) -> list[str]:
        with _errors(f"checkpoints in {self.folder} cannot be listed"):
            return [name for name in os.listdir(self.folder) if name.endswith(suffix)]

    def _files(self) -> list[File]:
        files = []
        for name in self._names():
            path = self.folder / name
            with _errors(f"checkpoint {path} cannot be read"), suppress(FileNotFoundError):
                about = path.stat()
                files.append(File(name, about.st_size, about.st_mtime))
        return files


@contextmanager
def _errors(cannot: str) -> Iterator[None]:
    """What the system refuses is one `StoreError`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{cannot}: {error.strerror}.") from error


def _sealed(payload: bytes) -> bytes:
    """A file's content: the payload with its checksum before it."""
    return hashlib.sha256(payload).digest() + payload


def _unsealed(content: bytes) -> bytes | None:
    """The payload of a file's content; `None` where that is damaged."""
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return payload if hashlib.sha256(payload).digest() == digest else None
