"""Checkpoints: one file a run, replaced whole after each epoch, with its own checksum, under a size limit.

A file is the SHA-256 of its payload (32 bytes) and the payload. What the payload is, is the business of whoever saves
it: this room neither knows torch nor unpickles anything.
"""

import hashlib
import os
from pathlib import Path

from lrtune.core.errors import StoreError

SUFFIX = ".ckpt"
_DIGEST_BYTES = 32


class CheckpointStore:
    """The checkpoints of one study."""

    def __init__(self, folder: Path, *, limit_bytes: int = 20 * 2**30):
        """Checkpoints in `folder`, which is made; over `limit_bytes` the least recently written go first."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"checkpoints cannot be written to {folder}: {error.strerror}.") from None

    def save(self, run_id: str, payload: bytes) -> None:
        """Replaces the run's checkpoint; a kill at any moment leaves the old one or the new one.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        path = self._path(run_id)
        temporary = path.with_suffix(".tmp")  # a run has one worker, so a killed one's is overwritten by the next
        try:
            with temporary.open("wb") as file:
                file.write(hashlib.sha256(payload).digest())
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(f"checkpoint {path} cannot be written: {error.strerror}.") from None
        self._evict(keep=path)

    def load(self, run_id: str) -> bytes | None:
        """The run's checkpoint; `None` where it has none.

        Raises:
            StoreError: it is damaged.
        """
        path = self._path(run_id)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"checkpoint {path} cannot be read: {error.strerror}.") from None
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            raise StoreError(
                f"checkpoint {path} is damaged: its content does not match its checksum. "
                "Delete it, and the run is trained again from its start; what was measured is kept."
            )
        return payload

    def drop(self, run_id: str) -> None:
        """Forgets the run's checkpoint, if it has one."""
        for suffix in (SUFFIX, ".tmp"):
            self._path(run_id).with_suffix(suffix).unlink(missing_ok=True)

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}{SUFFIX}"

    def _evict(self, keep: Path) -> None:
        """Drops the least recently written files but `keep`. A lost checkpoint costs time, never a result."""
        entries = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            entries.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
