"""Keeps the lines that a program writes, with the number of steps made when each was written."""

from __future__ import annotations

import re
import sys
import time
from typing import Any, Callable

Keep = Callable[[float, str, str], None]
"""It is given the time, the name of the stream, and the line."""

_NUMBER = re.compile(r"\d|\bnan\b|\binf(inity)?\b", re.IGNORECASE)
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CURSOR_UP = re.compile(r"\x1b\[\d*A")
_BAR = re.compile(r"(\d+)%\|")
_MAX_CHARACTERS = 4000


class LineReader:
    """Makes lines of what is written piece by piece."""

    def __init__(self) -> None:
        self._rest = ""

    def read(self, text: str) -> list[str]:
        """The lines that the text completes and that have a number in them.

        What a carriage return lets the next text overwrite is left out, and so are the lines of a
        progress bar that is still under way.
        """
        lines = []
        *complete, rest = (self._rest + text).split("\n")
        for raw in complete:
            line = raw[:-1] if raw.endswith("\r") else raw
            is_overwriting = "\r" in line
            line = line[line.rfind("\r") + 1 :]
            if _CURSOR_UP.search(line) or (is_overwriting and _is_under_way(line)):
                continue
            line = _ESCAPE.sub("", line) if "\x1b" in line else line
            if _NUMBER.search(line):
                lines.append(line)
        # One carriage return is kept: it shows that the line is rewritten.
        if "\r" in rest[:-1]:
            rest = "\r" + rest[rest.rfind("\r", 0, len(rest) - 1) + 1 :]
        self._rest = rest[:_MAX_CHARACTERS]
        return lines


def _is_under_way(line: str) -> bool:
    bar = _BAR.search(line)
    return bar is not None and bar.group(1) != "100"


class Output:
    """Watches standard output and error of this process.

    Only `write` of the two streams is replaced, on the very objects, so that their descriptors,
    encodings and buffers stay what they are.
    """

    def __init__(self, keep: Keep, on_error: Callable[[], None]) -> None:
        self._keep, self._on_error = keep, on_error
        self._writes: list[tuple[Any, Any]] = []

    def watch(self) -> None:
        """Starts."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None:
                self._watch(stream, name)

    def stop(self) -> None:
        """Gives the streams their own `write` back, unless the program has replaced ours."""
        for stream, write in self._writes:
            if getattr(stream, "write", None) is write:
                del stream.write
        self._writes.clear()

    def _watch(self, stream: Any, name: str) -> None:
        write, reader = stream.write, LineReader()

        def write_and_keep(text: str) -> Any:
            result = write(text)
            try:
                for line in reader.read(text):
                    self._keep(time.time(), name, line)
            except Exception:
                self._on_error()
            return result

        try:
            stream.write = write_and_keep
        except AttributeError:  # a stream whose attributes cannot be set
            return
        self._writes.append((stream, write_and_keep))
