"""The files of a run folder, which the code in the command's process writes (`child/`).

Any of them may be absent, and its last line may be half-written.
"""

import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from lrtune.training.command.lines import (
    numbers_in,
    visible,
)
from lrtune.training.command.supervisor import NOTE, NOTE_BYTES, PART_BYTES

Source = Literal["report", "lightning", "transformers", "tensorboard", "output", "log", "csv"]
"""Where a metric comes from; where several have it, the first of this list is taken.

The first four are values that code in the command's process handed over.
`output` is a line that a steered Python process printed, and `log` any other line of the output.
"""
HANDED_OVER: frozenset[Source] = frozenset(("report", "lightning", "transformers", "tensorboard"))
_BOARD = struct.Struct("<8sQddQ")
_MAGIC = b"LRTUNE1\0"
_STEP = struct.Struct("<dd")
_MAX_LINE_BYTES = 1024 * 1024
_COMPARED_CHARACTERS = 500


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
class CommandAudit:
    """What is wrong with the LRs that a command uses by itself."""

    audits: tuple[Mapping[str, Any], ...]
    """One for each optimizer that made a step: see `lrtune.auditing.audit.Audit.summary`."""
    notes: tuple[str, ...] = ()
    """What could not be seen, and why."""

    @property
    def findings(self) -> tuple[Mapping[str, str], ...]:
        """The findings of all optimizers: `name`, `severity`, `what` and `fix`."""
        return tuple(finding for audit in self.audits for finding in audit["findings"])


def read_audit(path: Path) -> CommandAudit | None:
    """Returns the content of `audit.json`; `None` where it is not there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return CommandAudit(audits=tuple(content["audits"]), notes=tuple(content["notes"]))


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


def read_failed(path: Path) -> str:
    """Returns why a run cannot be steered, by its `failed.json`; empty if nothing failed."""
    content = _json(path)
    if not isinstance(content, dict):
        return ""
    if "error" in content:
        return f"it could not be steered at step {content['step']}: {content['error']}"
    what = "weight decay" if content.get("key") == "weight_decay" else "LR"
    return (
        f"the {what} of group {content['group']} at step {content['step']} was {content['got']:g}, "
        f"and not {content['wanted']:g} as it was set: the command changes it within the step"
    )


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
        if source in HANDED_OVER and values and _is_stamped(content):
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


def start_of(text: str) -> str:
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
