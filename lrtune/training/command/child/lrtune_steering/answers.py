"""What lrtune answers to the values that a run hands over: the learning rates from there on.

That it should stop is told by the file `stop`, which is there before the answer.
"""

from __future__ import annotations

import array
import mmap
import os
import struct
import sys
import time

_COUNT = struct.Struct("<Q")
_PAUSE_S = 0.005


class Answers:
    """The answers in `answers.bin` and `table.bin` of a run folder.

    The first holds how many values were answered; the second, the LR of each step, is replaced
    before that number grows.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._num_read = 0
        with open(os.path.join(folder, "answers.bin"), "rb") as file:
            self._count = mmap.mmap(file.fileno(), _COUNT.size, access=mmap.ACCESS_READ)

    @property
    def _num_answered(self) -> int:
        return int(_COUNT.unpack_from(self._count)[0])

    def wait_for(self, num_values: int) -> None:
        """Waits until so many values were answered. If lrtune is gone, this process is ended."""
        while self._num_answered < num_values:
            time.sleep(_PAUSE_S)

    def new_table(self) -> array.array[float] | None:
        """The LRs of the latest answer, or `None` if they are known already."""
        num_answered = self._num_answered
        if num_answered == self._num_read:
            return None
        self._num_read = num_answered
        return read_table(self._folder)


def read_table(folder: str) -> array.array[float]:
    """Reads `table.bin`."""
    table = array.array("d")
    with open(os.path.join(folder, "table.bin"), "rb") as file:
        table.frombytes(file.read())
    if sys.byteorder == "big":
        table.byteswap()
    return table
