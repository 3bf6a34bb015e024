"""Where the metric of a command is, if the user says so by `--read`."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from lrtune.core.errors import InputError
from lrtune.training.command.lines import (
    as_number,
    normalised,
)

_MAX_CSV_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class OutputPattern:
    """A regular expression whose group is the value of the metric in a line of output."""

    pattern: re.Pattern[str]
    group: str | int

    def find(self, text: str) -> float | None:
        """Returns the value in a line, if it has one."""
        match = self.pattern.search(text)
        return as_number(match[self.group]) if match else None

    def __str__(self) -> str:
        return repr(self.pattern.pattern)


@dataclass(frozen=True, kw_only=True)
class CsvColumn:
    """A column of a CSV file that the command writes."""

    path: str
    """Relative to the working directory of the command. It may have `{run_dir}` in it."""
    column: str

    def __str__(self) -> str:
        return f"{self.path}:{self.column}"


Place = OutputPattern | CsvColumn


def parse_place(text: str, metric: str) -> Place:
    r"""Returns what `--read` means: `FILE.csv:COLUMN`, or a regular expression.

    Args:
        text: what the user wrote.
        metric: the metric's name. A group of this name is its value, else the only group is.

    Raises:
        InputError: the text is neither.

    Example:
        >>> str(parse_place("out/summary.csv:eval_top1", "top1"))
        'out/summary.csv:eval_top1'
        >>> parse_place(r"Score (?P<f1>\S+)", "f1").find("Score 0.5")
        0.5
    """
    if match := re.fullmatch(r"(.+\.(?:csv|tsv)):([^:]*\S)\s*", text, re.IGNORECASE):
        return CsvColumn(path=match[1], column=match[2].strip())
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(
            f"`--read` is not a valid regular expression: {error}, in {text!r}."
        ) from None
    group: str | int = next(
        (name for name in pattern.groupindex if normalised(name) == normalised(metric)), 1
    )
    if group == 1 and pattern.groups != 1:
        raise InputError(
            f"`--read` must have one group, or one with the metric's name such as "
            f"(?P<{re.sub(r'[^0-9A-Za-z]+', '_', metric)}>...), but {text!r} has {pattern.groups}."
            " To read a CSV file, write FILE.csv:COLUMN."
        )
    return OutputPattern(pattern=pattern, group=group)


class CsvRows:
    """Reads the rows that a command adds to a CSV file.

    Rows that were there when this object was made do not count. The command may append rows, write
    the whole file again with one more row, or begin a new file.

    Args:
        path: the file; it may not exist yet.
        all_count: rows that are there already count too.
    """

    def __init__(self, path: Path, *, all_count: bool = False):
        self.path = path
        self.columns: tuple[str, ...] = ()
        """The names in the first line; empty before there is one."""
        self._seen: list[list[str]] = []
        self._num_counted = 0  # of the rows seen, those that came since the start
        self._state: tuple[int, ...] | None = None
        self._is_shorter = False
        if not all_count:
            self.read()
            self._num_counted = 0

    def read(self, *, over: bool = False) -> list[dict[str, str]]:
        """Returns the rows since the last call, by column.

        Args:
            over: whether nothing more will come, so that a last line without an end counts too.
        """
        try:
            status = self.path.stat()
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if state == self._state and not over and not self._is_shorter:
                return []
            with self.path.open("rb") as file:
                content = file.read(_MAX_CSV_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return []
        self._state = state
        if not over:
            content = content[: content.rfind(b"\n") + 1]
        rows = self._rows(content.decode("utf-8-sig", errors="replace"))
        return [dict(zip(self.columns, row, strict=False)) for row in self._new(rows, over)]

    def _rows(self, text: str) -> list[list[str]]:
        delimiter = "\t" if self.path.suffix.lower() == ".tsv" else ","
        header = text.partition("\n")[0]
        if delimiter not in header and ";" in header:
            delimiter = ";"
        try:
            lines = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
            rows = [row for row in lines if row]
        except csv.Error:
            return []
        if rows:
            self.columns = tuple(name.strip() for name in rows[0])
        return [row for row in rows[1:] if tuple(name.strip() for name in row) != self.columns]

    def _new(self, rows: list[list[str]], over: bool) -> list[list[str]]:
        """The rows that were not seen before."""
        num_equal = len(self._seen)
        if rows[:num_equal] != self._seen:
            is_shorter = rows == self._seen[: len(rows)]  # begun anew, or just being written
            if self._num_counted and len(rows) < num_equal:
                return []
            if not self._num_counted and is_shorter and not (self._is_shorter or over):
                self._is_shorter = True  # the next call tells
                return []
            if not self._num_counted:  # the command began a new file
                num_equal = 0
        self._is_shorter = False
        new = rows[num_equal:]
        self._seen = rows
        self._num_counted += len(new)
        return new
