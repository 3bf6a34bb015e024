"""Checkpoints: one file a state of training, under its key, with its own checksum, and all of them under a size limit.

A file is the SHA-256 of its payload (32 bytes) and the payload. What the payload is, is the business of whoever saves
it: this room neither knows torch nor unpickles anything. Any file may go at any time: that costs epochs, no result.
"""

import hashlib
import os
import uuid
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from lrtune.core.errors import StoreError

SUFFIX = ".ckpt"
LIMIT_BYTES = 20 * 2**30
_DIGEST_BYTES = 32


class Checkpoints(Protocol):
    """Checkpoints in whatever place."""

    def save(self, key: str, payload: bytes, epochs: int) -> None:
        """Keeps a state that took `epochs` epochs."""

    def load(self, key: str) -> bytes | None:
        """The state under `key`; `None` where there is none, or a damaged one, which is dropped."""

    def drop(self, key: str) -> None:
        """Forgets the state under `key`, if there is one."""

    def keep_only(self, keys: Container[str]) -> None:
        """Forgets all other states."""


def sealed(payload: bytes) -> bytes:
    """A file's content: the payload with its checksum before it."""
    return hashlib.sha256(payload).digest() + payload


def unsealed(content: bytes) -> bytes | None:
    """The payload of a file's content; `None` where that is damaged."""
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return payload if hashlib.sha256(payload).digest() == digest else None


class CheckpointStore:
    """The checkpoints of one study."""

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES):
        """Checkpoints in `folder`, which is made; over `limit_bytes` those that took the fewest epochs go first."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"checkpoints cannot be written to {folder}: {error.strerror}.") from None

    def save(self, key: str, payload: bytes, epochs: int) -> None:
        """Keeps a state that took `epochs` epochs; a kill at any moment leaves all of it or nothing.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        path = self.folder / f"{key}.{epochs}{SUFFIX}"
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")  # several lanes may come to the same state at once
        try:
            with temporary.open("wb") as file:
                file.write(sealed(payload))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(f"checkpoint {path} cannot be written: {error.strerror}.") from error
        self._evict(keep=path)

    def load(self, key: str) -> bytes | None:
        """The state under `key`; `None` where there is none, or a damaged one, which is dropped.

        Raises:
            StoreError: it cannot be read.
        """
        for path in self._paths(key):
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # another process was faster
                return None
            except OSError as error:
                raise StoreError(f"checkpoint {path} cannot be read: {error.strerror}.") from error
            payload = unsealed(content)
            if payload is None:
                path.unlink(missing_ok=True)
            return payload
        return None

    def drop(self, key: str) -> None:
        """Forgets the state under `key`, if there is one."""
        for path in self._paths(key):
            path.unlink(missing_ok=True)

    def keep_only(self, keys: Container[str]) -> None:
        """Forgets all other states, and what killed processes left half-written."""
        for path in self._files():
            if path.name.split(".")[0] not in keys or not path.name.endswith(SUFFIX):
                path.unlink(missing_ok=True)

    def _paths(self, key: str) -> list[Path]:
        return [path for path in self._files() if path.name.startswith(f"{key}.") and path.name.endswith(SUFFIX)]

    def _files(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except OSError as error:
            raise StoreError(f"checkpoints in {self.folder} cannot be listed: {error.strerror}.") from error

    def _evict(self, keep: Path) -> None:
        """Drops what took the fewest epochs, of equals the oldest, until the rest fits; never `keep`."""
        entries = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            entries.append((int(path.name.split(".")[1]), stat.st_mtime, stat.st_size, path))
        total = sum(size for _, _, size, _ in entries)
        for _, _, size, path in sorted(entries):
            if total <= self.limit_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
