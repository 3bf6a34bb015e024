"""The metric of a command: an evaluation an epoch, wherever its values appear."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, get_args

from lrtune.training.command.lines import (
    ParsedLine,
    Value,
    as_number,
    normalised,
    parse,
    visible,
    words_of,
)
from lrtune.training.command.places import CsvColumn, CsvRows, OutputPattern, Place
from lrtune.training.command.run_files import (
    HANDED_OVER,
    Lines,
    LogLines,
    Source,
    read_board,
    read_output,
    read_reports,
    start_of,
)

_SOURCES: tuple[Source, ...] = get_args(Source)
_MAX_LINES = 2_000
"""Of more lines at a time, only those that have a word of the metric's name are read."""
_MAX_OTHERS = 64
_MAX_NAMES = 1_000
_MAX_SHOWN = 20


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
        has_ended: whether the command has, and its CSV file is of this run alone. Else create this
            before the command is started: rows that a CSV file has by then do not count.
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
        has_ended: bool = False,
    ):
        self.folder = folder
        self.metric = metric
        self.series = series
        """Where the metric comes from; `None` before its first value."""
        self.written_as = ""
        """The name of the metric as the command has it; empty before its first value."""
        self.num_handed_over = 0
        """Values that were handed over and have been read, of the metric and others."""
        self._key = normalised(metric or "")
        self._place = place
        self._reports = Lines(folder / "values.jsonl")
        self._output = Lines(folder / "lines.jsonl")
        self._log = LogLines(log, log_start) if log else None
        self._csv = None
        if isinstance(place, CsvColumn):
            path = (cwd or Path.cwd()) / place.path
            self._csv = CsvRows(path, all_count=has_ended)
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
            self._stamped[start_of(line.text)] += 1
            yield self._from_line("output", line.step, line.time, line.text)
        yield from self._unstamped(arrived, over)
        handed_over = self._reports.read(over=over)
        self.num_handed_over += len(handed_over)
        for report in read_reports(handed_over):
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
            if self._stamped[key := start_of(text)]:
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
        if item.source in HANDED_OVER or item.source == "csv":
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
        self.written_as = item.metric.name
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
