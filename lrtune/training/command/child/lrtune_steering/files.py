"""The files in the run folder that one process of the run, its writer, keeps up to date."""

from __future__ import annotations

import array
import json
import mmap
import os
import struct
import sys
from typing import Any

MAGIC = b"LRTUNE1\0"
MAX_LINES_BYTES = 64 * 2**20
MAX_LINE_CHARACTERS = 2000

_BOARD = struct.Struct("<Qdd")


class Files:
    """The files of the writer.

    A file is opened for each write, since a program may close descriptors that are not its own.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.num_values = 0
        """Lines of `values.jsonl`."""
        self._lines_bytes = 0
        self._board = self._make_board()

    @staticmethod
    def elect(folder: str) -> Files | None:
        """Makes this process the writer, and returns `None` if there is one already."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        try:
            descriptor = os.open(os.path.join(folder, "writer"), flags, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w") as file:
            file.write(str(os.getpid()))
        return Files(folder)

    def write_board(self, num_steps: int, lr: float, loss: float) -> None:
        """Shows the latest step."""
        _BOARD.pack_into(self._board, 8, num_steps, lr, loss)

    def append_steps(self, values: list[float]) -> None:
        """Appends the LR and the loss of each of some steps."""
        numbers = array.array("d", values)
        if sys.byteorder == "big":
            numbers.byteswap()
        with open(os.path.join(self._folder, "steps.bin"), "ab") as file:
            file.write(numbers.tobytes())

    def append_values(self, document: dict[str, Any]) -> None:
        """Appends to `values.jsonl`."""
        self.num_values += 1
        self._append("values.jsonl", json.dumps(document))

    def append_line(self, document: dict[str, Any]) -> None:
        """Appends to `lines.jsonl`, unless that has become too large."""
        text = json.dumps(document)
        self._lines_bytes += len(text) + 1
        if self._lines_bytes <= MAX_LINES_BYTES:
            self._append("lines.jsonl", text)

    def replace(self, name: str, document: dict[str, Any]) -> None:
        """Replaces a file; a reader sees the old one or the new one."""
        self._replace(name, json.dumps(document).encode())

    def write_once(self, name: str, document: dict[str, Any]) -> None:
        """Writes a file unless it is there."""
        if not os.path.exists(os.path.join(self._folder, name)):
            self.replace(name, document)

    def _append(self, name: str, text: str) -> None:
        with open(os.path.join(self._folder, name), "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def _replace(self, name: str, content: bytes) -> None:
        path = os.path.join(self._folder, name)
        with open(path + ".new", "wb") as file:
            file.write(content)
        os.replace(path + ".new", path)

    def _make_board(self) -> mmap.mmap:
        content = struct.pack("<8sQddQ", MAGIC, 0, 0.0, float("nan"), os.getpid())
        self._replace("board.bin", content.ljust(64, b"\0"))
        with open(os.path.join(self._folder, "board.bin"), "r+b") as file:
            return mmap.mmap(file.fileno(), 64)
