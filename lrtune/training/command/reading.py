"""Reads what a steered command writes: its steps, its parameter groups and its metric.

The files are those of the run folder, which the code in the command's process writes (`child/`),
the log of the command's output, and a CSV file that the command itself may write. Any of them may
be absent, and its last line may be half-written.
"""

import csv
import io
import json
import math
import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

from lrtune.core.errors import InputError
from lrtune.training.command.lines import (
    ParsedLine,
    Value,
    as_number,
    normalised,
    numbers_in,
    parse,
    visible,
    words_of,
)
from lrtune.training.command.supervisor import NOTE, NOTE_BYTES, PART_BYTES

Source = Literal["report", "lightning", "transformers", "output", "log", "csv"]
"""Where a metric comes from; where several have it, the first of this list is taken.

`report`, `lightning` and `transformers` are values that code in the command's process handed over.
`output` is a line that a steered Python process printed, and `log` any other line of the output.
"""
_SOURCES: tuple[Source, ...] = get_args(Source)
_HANDED_OVER: frozenset[Source] = frozenset(("report", "lightning", "transformers"))
_BOARD = struct.Struct("<8sQddQ")
_MAGIC = b"LRTUNE1\0"
_STEP = struct.Struct("<dd")
_MAX_LINES = 2_000
"""Of more lines at a time, only those that have a word of the metric's name are read."""
_MAX_CSV_BYTES = 64 * 1024 * 1024
_MAX_LINE_BYTES = 1024 * 1024
_COMPARED_CHARACTERS = 500
_MAX_OTHERS = 64
_MAX_NAMES = 1_000
_MAX_SHOWN = 20


# --- the files of the run folder


@dataclass(frozen=True, kw_only=True)
class Board:
    """Where a run is."""

    steps: int
    """Real steps of the first steered optimizer."""
    lr: float
    """The LR of the latest step, for a group with ratio 1."""
    loss: float
    """The latest known loss."""
    pid: int
    """The process that trains."""


def read_board(path: Path) -> Board | None:
    """Returns the content of `board.bin`; `None` before it is complete."""
    try:
        with path.open("rb") as file:
            content = file.read(_BOARD.size)
    except FileNotFoundError:
        return None
    if len(content) < _BOARD.size or not content.startswith(_MAGIC):
        return None
    _, steps, lr, loss, pid = _BOARD.unpack(content)
    return Board(steps=steps, lr=lr, loss=loss, pid=pid)


class Step(NamedTuple):
    """One optimizer step. There may be millions, so it is a tuple."""

    lr: float
    loss: float
    """nan if it is not known."""


class Steps:
    """Reads `steps.bin` as it grows.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self._tail = _Tail(path)

    def read(self) -> list[Step]:
        """Returns the steps since the last call."""
        content = self._tail.read()
        whole = len(content) - len(content) % _STEP.size
        self._tail.keep(content[whole:])
        return [Step(*pair) for pair in _STEP.iter_unpack(content[:whole])]


@dataclass(frozen=True, kw_only=True)
class SteeredGroup:
    """A parameter group of the command's own optimizer."""

    name: str | None
    lr: float
    """The script's own LR when the group was first seen."""
    max_lr: float
    """The largest LR that the script set."""
    weight_decay: float | None


@dataclass(frozen=True, kw_only=True)
class SteeredOptimizer:
    """An optimizer of the command."""

    class_name: str
    module: str
    num_steps: int
    groups: tuple[SteeredGroup, ...]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The optimizers of a command in the order of their first step, and its versions."""

    torch: str
    python: str
    optimizers: tuple[SteeredOptimizer, ...]


def read_groups(path: Path) -> Groups | None:
    """Returns the content of `groups.json`; `None` while it does not exist."""
    content = _json(path)
    if not isinstance(content, dict):
        return None
    return Groups(
        torch=str(content.get("torch", "")),
        python=str(content.get("python", "")),
        optimizers=tuple(
            SteeredOptimizer(
                class_name=optimizer["class"],
                module=optimizer["module"],
                num_steps=optimizer["num_steps"],
                groups=tuple(
                    SteeredGroup(
                        name=group.get("name"),
                        lr=group["lr"],
                        max_lr=group["max_lr"],
                        weight_decay=group.get("weight_decay"),
                    )
                    for group in optimizer["groups"]
                ),
            )
            for optimizer in content.get("optimizers", ())
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A step at which the LRs could not be set, or were not the ones that were set."""

    step: int
    group: str = ""
    wanted: float = math.nan
    got: float = math.nan
    error: str = ""
    """What went wrong in lrtune's own code in the command; empty if an LR was wrong."""


def read_failed(path: Path) -> Failed | None:
    """Returns the content of `failed.json`; `None` if nothing failed."""
    content = _json(path)
    if not isinstance(content, dict):
        return None
    if "error" in content:
        return Failed(step=content["step"], error=content["error"])
    return Failed(
        step=content["step"],
        group=str(content["group"]),
        wanted=content["wanted"],
        got=content["got"],
    )


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """What a command seeded itself."""

    seeded: tuple[str, ...]
    offset: int | None


def read_seeds(path: Path) -> Seeds | None:
    """Returns the content of `seeds.json`; `None` while it does not exist."""
    content = _json(path)
    if not isinstance(content, dict):
        return None
    return Seeds(seeded=tuple(content.get("seeded", ())), offset=content.get("offset"))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Values that code in the command's process handed over."""

    step: int
    time: float
    source: Source
    values: Mapping[str, float]


def read_reports(lines: Iterable[str]) -> Iterator[Report]:
    """Yields the reports of lines of `values.jsonl`; lines that are none are left out."""
    for content in _objects(lines):
        source = content.get("source")
        values = dict(numbers_in(content.get("values")))
        if source in _HANDED_OVER and values and _is_stamped(content):
            yield Report(step=content["step"], time=content["time"], source=source, values=values)


@dataclass(frozen=True, kw_only=True)
class OutputLine:
    """A line that a steered process printed."""

    step: int
    time: float
    text: str


def read_output(lines: Iterable[str]) -> Iterator[OutputLine]:
    """Yields the lines of output in lines of `lines.jsonl`; lines that are none are left out."""
    for content in _objects(lines):
        text = content.get("line")
        if isinstance(text, str) and _is_stamped(content):
            yield OutputLine(step=content["step"], time=content["time"], text=text)


def _compared(text: str) -> str:
    """What a stamped line and its copy in the log have in common."""
    return visible(text).strip()[:_COMPARED_CHARACTERS]


def _is_stamped(content: Mapping[str, Any]) -> bool:
    step, stamp = content.get("step"), content.get("time")
    return isinstance(step, int) and isinstance(stamp, int | float)


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue  # half-written by a process that was killed
        if isinstance(content, dict):
            yield content


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None  # it is replaced atomically, so half a file means that its writer was killed


# --- files that grow


class _Tail:
    """Reads what was appended to a file since the last call."""

    def __init__(self, path: Path, position: int = 0):
        self.path = path
        self.position = position
        self._rest = b""

    def read(self, find_position: Callable[[BinaryIO], None] | None = None) -> bytes:
        """Returns what was kept, and what is new.

        Args:
            find_position: is called with the open file, and may change `position`.
        """
        try:
            with self.path.open("rb") as file:
                if find_position:
                    find_position(file)
                file.seek(self.position)
                content = file.read()
        except FileNotFoundError:
            content = b""
        self.position += len(content)
        content, self._rest = self._rest + content, b""
        return content

    def keep(self, content: bytes) -> None:
        """Keeps what is not complete for the next call, instead of what was kept before."""
        self._rest = content


class Lines:
    """Reads whole lines from a file that grows.

    Args:
        path: the file; it may not exist yet.
    """

    def __init__(self, path: Path):
        self._tail = _Tail(path)

    def read(self, *, over: bool = False) -> list[str]:
        """Returns the lines since the last call.

        Args:
            over: whether nothing more will come, so that a last line without an end counts too.
        """
        return _split(self._tail, over)

    @property
    def has_begun(self) -> bool:
        """Whether anything was read."""
        return self._tail.position > 0


class LogLines:
    """Reads whole lines from the log of a command that runs, which may leave out its middle.

    Args:
        path: the log.
        start: the size that it had when the command was started.
    """

    def __init__(self, path: Path, start: int = 0):
        self._tail = _Tail(path, start)
        self._note_start = start + PART_BYTES
        self._num_left_out = 0

    def read(self, *, over: bool = False) -> list[str]:
        """Returns the lines since the last call; see `Lines.read`."""
        lines = _split(self._tail, over, self._find_position)
        return [line for line in lines if not _NOTE.match(line)]

    def _find_position(self, file: BinaryIO) -> None:
        """Finds the place to go on in a file that has become shorter."""
        file.seek(self._note_start)
        match = _NOTE.match(file.read(NOTE_BYTES).decode(errors="replace").strip())
        num_left_out = int(match[1].replace(",", "")) if match else 0
        if num_left_out > self._num_left_out and self._tail.position > self._note_start:
            note_bytes = NOTE_BYTES if self._num_left_out else 0
            done = self._tail.position - note_bytes + self._num_left_out  # bytes of output
            first = self._note_start + num_left_out  # of the output that is still there
            self._tail.position = NOTE_BYTES + max(done, first) - num_left_out
            if done < first:
                self._tail.keep(b"")  # the rest of that line was left out
        self._num_left_out = num_left_out


_NOTE = re.compile(re.escape(NOTE.strip()).replace(re.escape("{:015,d}"), "([0-9,]{15,})"))


def _split(
    tail: _Tail, over: bool, find_position: Callable[[BinaryIO], None] | None = None
) -> list[str]:
    *lines, rest = tail.read(find_position).split(b"\n")
    if over and rest:
        lines.append(rest)
    else:  # a progress bar may print megabytes without an end of line
        tail.keep(rest if len(rest) < _MAX_LINE_BYTES else rest[-_MAX_LINE_BYTES // 2 :])
    return [line.decode(errors="replace") for line in lines]


# --- where the metric is, as the user said


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
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns: tuple[str, ...] = ()
        """The names in the first line; empty before there is one."""
        self._seen: list[list[str]] = []
        self._num_counted = 0  # of the rows seen, those that came since the start
        self._state: tuple[int, ...] | None = None
        self._is_shorter = False
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


# --- the metric


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The end of an epoch: the values from one value of the metric to the next."""

    step: int
    """Real optimizer steps before the metric was measured."""
    time: float
    """Seconds since 1970, when it was written."""
    values: Mapping[str, float]
    """The metric by the name that the user typed, and the latest values of all others by their
    normalised names."""
    source: Source


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A name that values were seen for."""

    name: str
    """As printed; with its label where other values have the same name."""
    value: float
    """The latest one."""
    place: str
    """Where it was seen, in words."""
    count: int
    is_evaluation: bool
    """Whether the name says that it was measured on held-out data."""
    is_metric_like: bool
    """Whether it has a word by which metrics are usually known, such as `loss`."""

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count:,} times"
        return f"{self.name} {self.value:.4g} ({self.place}, {times})"


class Series(NamedTuple):
    """Which of the values with a metric's name are its values."""

    source: Source
    rank: int


@dataclass(frozen=True, kw_only=True)
class _Item:
    """Values that were seen at one place and time."""

    step: int
    time: float
    source: Source
    line: ParsedLine
    metric: Value | None = None
    rank: int = 1
    """2: an evaluation, by its name or label. 0: a line that counts the batches of an epoch."""


class Epochs:
    """Reads the metric of a run, an evaluation an epoch.

    A value that is printed counts once an optimizer step was made after it, so that the last one of
    several at the same step is taken. Values that are handed over count at once. A value before the
    first step does not count. Lines that count batches (`Epoch: [3][100/391] loss 0.5`) give one
    value an epoch, and only where nothing else has the metric.

    Args:
        folder: the run folder.
        metric: its name, in any spelling; `None` to see only which names there are.
        log: the log of the command.
        log_start: the size that the log had when the command was started.
        place: where the metric is, if the user said so.
        cwd: the working directory of the command.
        series: what an earlier run of the same command had as `series`, so that all runs read the
            same.

    Create it before the command is started, since rows that a CSV file has by then do not count.
    """

    def __init__(
        self,
        folder: Path,
        metric: str | None,
        *,
        log: Path | None = None,
        log_start: int = 0,
        place: Place | None = None,
        cwd: Path | None = None,
        series: Series | None = None,
    ):
        self.folder = folder
        self.metric = metric
        self.series = series
        """Where the metric comes from; `None` before its first value."""
        self._key = normalised(metric or "")
        self._place = place
        self._reports = Lines(folder / "values.jsonl")
        self._output = Lines(folder / "lines.jsonl")
        self._log = LogLines(log, log_start) if log else None
        self._csv = None
        if isinstance(place, CsvColumn):
            self._csv = CsvRows((cwd or Path.cwd()) / place.path)
        self._seen: dict[tuple[str, str], tuple[Value, int]] = {}
        self._others: dict[str, float] = {}
        self._pending: _Item | None = None
        self._progress: _Item | None = None
        self._last_step = 0
        self._arrived: list[tuple[str, _Item]] = []  # lines of the log that may yet be stamped
        self._stamped = Counter[str]()  # stamped lines that the log has not shown yet
        self._was_early = False  # whether there was a value before the first step

    def read(self, *, over: bool = False) -> list[Evaluation]:
        """Returns the evaluations since the last call.

        Args:
            over: whether the command has ended, so that nothing more will come.
        """
        board = read_board(self.folder / "board.bin")  # first: it tells what the files must have
        steps = board.steps if board else 0
        items = sorted(self._items(steps, over), key=lambda item: item.step)
        evaluations = []
        for item in items:
            evaluations += self._settled(item.step)
            evaluations += self._take(item)
        evaluations += self._settled(steps)
        if over:
            evaluations += self._progress_over()
            evaluations += self._settled(None)
        return evaluations

    # --- what was written

    def _items(self, steps: int, over: bool) -> Iterator[_Item]:
        now = time.time()
        new = self._worth_reading(self._log.read(over=over)) if self._log is not None else ()
        arrived = [(text, self._from_line("log", steps, now, text)) for text in new]
        for line in read_output(self._worth_reading(self._output.read(over=over))):
            self._stamped[_compared(line.text)] += 1
            yield self._from_line("output", line.step, line.time, line.text)
        yield from self._unstamped(arrived, over)
        for report in read_reports(self._reports.read(over=over)):
            values = (Value(name=name, value=value) for name, value in report.values.items())
            parsed = ParsedLine(values=tuple(values))
            yield self._with_metric(
                _Item(step=report.step, time=report.time, source=report.source, line=parsed)
            )
        if self._csv is not None:
            rows = self._csv.read(over=over)
            for number, row in enumerate(rows, 1):
                numbers = ((name, as_number(cell)) for name, cell in row.items())
                parsed = ParsedLine(
                    values=tuple(Value(name=n, value=v) for n, v in numbers if n and v is not None)
                )
                # Rows have no stamp: they are taken to be equally far from each other.
                since = max(0, steps - self._last_step)
                step = steps - since + since * number // len(rows)
                yield self._with_metric(_Item(step=step, time=now, source="csv", line=parsed))

    def _unstamped(self, arrived: list[tuple[str, _Item]], over: bool) -> Iterator[_Item]:
        """The lines of the log that no steered process has stamped.

        A line of the log has the number of steps that were made when it was read, so a stamped one
        would count twice, or a value before the first step as one after it. A line may reach the
        log before its stamp is written, so each waits for the next call.
        """
        settled, self._arrived = self._arrived, arrived
        if over:
            settled, self._arrived = settled + arrived, []
        for text, item in settled:
            if self._stamped[key := _compared(text)]:
                self._stamped[key] -= 1
            else:
                yield item

    def _worth_reading(self, lines: Sequence[str]) -> Iterator[str]:
        """The lines that may have a value; of a flood, those that may have the metric."""
        word = max(words_of(self._key), key=len)
        for number, line in enumerate(lines):
            if number < _MAX_LINES or (word and word in line.lower()):
                yield line

    def _from_line(self, source: Source, step: int, stamp: float, text: str) -> _Item:
        item = _Item(step=step, time=stamp, source=source, line=parse(text))
        if not isinstance(self._place, OutputPattern):
            return self._with_metric(item)
        number = self._place.find(visible(text))
        if number is None or self.metric is None:
            return item
        return replace(item, metric=Value(name=self.metric, value=number))

    def _with_metric(self, item: _Item) -> _Item:
        """The item with the metric's value, if it has it and the user did not say otherwise."""
        if isinstance(self._place, OutputPattern) or not self._key:
            return item
        if isinstance(self._place, CsvColumn):
            if item.source != "csv":
                return item
            metric = item.line.find(normalised(self._place.column))
            return replace(item, metric=metric)
        metric = item.line.find(self._key)
        if metric is None:
            return item
        rank = 2 if metric.is_evaluation else 0 if item.line.counts_batches else 1
        return replace(item, metric=metric, rank=rank)

    # --- which values count

    def _take(self, item: _Item) -> list[Evaluation]:
        """Takes note of what was seen. Returns an evaluation that is complete with it."""
        self._note(item)
        if item.metric is None or not self._may_count(item):
            return []
        if item.step == 0:
            self._was_early = True
            self._others.clear()
            return []
        if item.rank == 0:
            evaluations = []
            if self._progress is not None and self._progress.line.epoch != item.line.epoch:
                evaluations = self._progress_over()
            self._progress = item
            return evaluations
        if item.source in _HANDED_OVER or item.source == "csv":
            self._pending = None  # what was printed of it as well
            return self._counted(item)
        if self._pending is None or self._order(item) >= self._order(self._pending):
            self._pending = item
        return []

    def _may_count(self, item: _Item) -> bool:
        """Whether the metric comes from there, and was not measured at this step before."""
        if self.series not in (None, (item.source, item.rank)):
            return False
        return item.step > self._last_step or item.step == 0 or item.source == "csv"

    @staticmethod
    def _order(item: _Item) -> tuple[int, int]:
        """The larger it is, the rather an item is taken of several at one step."""
        return -_SOURCES.index(item.source), item.rank

    def _settled(self, step: int | None) -> list[Evaluation]:
        """Counts the value that waits for a later step, if this is one or nothing will come."""
        item = self._pending
        if item is None or (step is not None and step <= item.step):
            return []
        self._pending = None
        return self._counted(item)

    def _progress_over(self) -> list[Evaluation]:
        """Counts the last value of an epoch's progress, if nothing else has the metric."""
        item, self._progress = self._progress, None
        is_only = self._pending is None and (self.series is None or self.series.rank == 0)
        return self._counted(item) if item is not None and is_only else []

    def _counted(self, item: _Item) -> list[Evaluation]:
        assert item.metric is not None
        assert self.metric is not None
        self.series, self._last_step = Series(item.source, item.rank), item.step
        own = (self._key, item.metric.key, item.metric.qualified_key)
        others = {name: value for name, value in self._others.items() if name not in own}
        self._others.clear()
        values = {self.metric: item.metric.value, **others}
        return [Evaluation(step=item.step, time=item.time, values=values, source=item.source)]

    def _note(self, item: _Item) -> None:
        """Keeps the values for the evaluation that they belong to, and as candidates."""
        file = self._place.path if isinstance(self._place, CsvColumn) else ""
        places: dict[str, str] = {"log": "output", "csv": file}
        for value in item.line.values:
            key = value.qualified_key if value.is_evaluation else value.key
            if value.is_counter:
                continue
            if key in self._others or len(self._others) < _MAX_OTHERS:
                self._others[key] = value.value
            if item.source == "log" and self._output.has_begun:
                continue  # the same line was stamped
            place = places.get(item.source, item.source)
            _, count = self._seen.get((place, value.qualified_key), (value, 0))
            if count or len(self._seen) < _MAX_NAMES:
                self._seen[place, value.qualified_key] = value, count + 1

    # --- what there is

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All names that values were seen for, the likeliest metrics first."""
        labels: dict[str, set[str]] = {}
        for value, _ in self._seen.values():
            labels.setdefault(value.key, set()).add(value.qualified_key)
        found = [
            Candidate(
                name=f"{value.label} {value.name}".strip()
                if len(labels[value.key]) > 1
                else value.name,
                value=value.value,
                place=place,
                count=count,
                is_evaluation=value.is_evaluation,
                is_metric_like=value.is_metric_like,
            )
            for (place, _), (value, count) in self._seen.items()
        ]
        return tuple(sorted(found, key=lambda it: (not it.is_metric_like, not it.is_evaluation)))

    @property
    def problem(self) -> str:
        """Why there is no evaluation, with all the names that were seen; empty if there is one."""
        if self.series is not None and self._last_step:
            return ""
        if self.metric is None:
            return f"No metric was named, and none is obvious. {seen(self.candidates)}"
        where = f" by `--read` {self._place}" if self._place else ""
        if self._was_early:
            return (
                f"`{self.metric}` was seen{where} only before the first optimizer step of torch, "
                "and never after it."
            )
        if self._csv is not None and not self._csv.columns:
            return f"The command wrote no CSV file {self._csv.path}, which `--read` names."
        if self._csv is not None and isinstance(self._place, CsvColumn):
            columns = ", ".join(self._csv.columns)
            if normalised(self._place.column) not in map(normalised, self._csv.columns):
                return (
                    f"The file {self._csv.path} has no column {self._place.column}. "
                    f"Its columns are: {columns}."
                )
        return f"No value of `{self.metric}` was seen{where}. {seen(self.candidates)}"


def seen(candidates: Sequence[Candidate]) -> str:
    """Returns a sentence that tells which names were seen, with their values and places."""
    if not candidates:
        return "The command printed and reported no values."
    shown = "; ".join(map(str, candidates[:_MAX_SHOWN]))
    more = len(candidates) - _MAX_SHOWN
    return f"Seen were: {shown}{f'; and {more} more' if more > 0 else ''}."


def obvious(candidates: Iterable[Candidate]) -> Candidate | None:
    """Returns the one candidate that must be the metric if none was named, if there is one.

    It is the only one that says it was measured on held-out data and has a word by which metrics
    are known. The best value so far is never taken, since it cannot get worse.
    """
    likely = {
        normalised(candidate.name): candidate
        for candidate in candidates
        if candidate.is_evaluation
        and candidate.is_metric_like
        and "best" not in words_of(normalised(candidate.name))
    }
    return next(iter(likely.values())) if len(likely) == 1 else None
