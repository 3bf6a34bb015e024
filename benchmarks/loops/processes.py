"""Each loop in a process of its own, asked for one epoch or one lot of trials at a time.

So the loops take turns with everything in place, none slows or breaks another, and the memory is
each one's own.
"""

import contextlib
import gc
import math
import multiprocessing
import os
import resource
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from lrtune.training.native import devices

ANSWER_S = 300
"""After so long without an answer a loop counts as hung."""
Make = Callable[[], object]


class LoopError(Exception):
    """A loop failed, in one line. The traceback of its process is on stderr."""


class LoopProcess:
    """A loop that was made in a process of its own; asking it calls a method there."""

    def __init__(self, make: Make):
        """Starts the process, and does not wait for it.

        Args:
            make: makes the loop; is sent to the process, so it is a class or function of a module,
                or a `partial`.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make))
        self._process.start()
        theirs.close()
        self._is_ready = False

    def ready(self) -> None:
        """Waits until the loop is made.

        Raises:
            LoopError: it could not be made.
        """
        if not self._is_ready:
            self.answer()
            self._is_ready = True

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the loop.

        Raises:
            LoopError: it raised, died or hung.
        """
        self.send(method, *arguments)
        return self.answer()

    def send(self, method: str, *arguments: Any) -> None:
        """Calls a method and does not wait; `answer` does.

        Raises:
            LoopError: the loop could not be made, or its process has died.
        """
        self.ready()
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise LoopError(f"its process is gone, exit code {self._process.exitcode}") from error

    def answer(self) -> Any:
        """What the last call returns.

        Raises:
            LoopError: it raised, died or hung.
        """
        if not self._connection.poll(ANSWER_S):
            self._process.terminate()
            raise LoopError(f"no answer within {ANSWER_S} s")
        try:
            succeeded, value = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(10)
            raise LoopError(f"its process died, exit code {self._process.exitcode}") from error
        if not succeeded:
            raise LoopError(value)
        return value

    def close(self) -> None:
        """Ends the process, and frees what it holds."""
        self._connection.close()
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def peak_memory_mib() -> dict[str, float]:
    """The peak of resident memory, with and without children, and of a GPU's.

    It is that of this process, and of each of the children that it has now. Pages that processes
    share count for each of them.
    """
    memory = {"process": _peak_mib(os.getpid())}
    children = [_peak_mib(child.pid) for child in psutil.Process().children(recursive=True)]
    memory["with_children"] = memory["process"] + sum(children)
    if torch.cuda.is_initialized():
        memory["gpu_allocated"] = torch.cuda.max_memory_allocated() / 2**20
        memory["gpu_reserved"] = torch.cuda.max_memory_reserved() / 2**20
    return memory


def _serve(connection: Connection, make: Make) -> None:
    torch.backends.cudnn.benchmark = True  # as the reference has it, for all alike
    multiprocessing.set_start_method(
        None, force=True
    )  # the usual one: loaders would spawn their workers, as we did
    made: list[Any] = []
    if not _reply(connection, lambda: made.append(make())):
        return
    gc.collect()
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write(
            "5"
        )  # the high-water mark of memory begins anew: decoding the images does not count
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            break
        _reply(
            connection,
            peak_memory_mib
            if method == "memory"
            else partial(getattr(made[0], method), *arguments),
        )
        gc.collect()
    if hasattr(made[0], "close"):
        made[0].close()


def _reply(connection: Connection, call: Callable[[], Any]) -> bool:
    """Sends what the call returns or, in one line, raises; whether it did not raise."""
    try:
        connection.send((True, call()))
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        connection.send((False, f"{type(error).__name__}: {lines[0] if lines else ''}"))
        return False
    return True


def _peak_mib(pid: int) -> float:
    known = devices.peak_memory_mib(pid)
    if math.isfinite(known):
        return known
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if pid == os.getpid() else 0.0
