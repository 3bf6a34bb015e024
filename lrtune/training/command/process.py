"""Starts a command, keeps its output, ends it, and leaves nothing of it behind.

The command runs under a supervisor (`supervisor.py`) in a session of its own, so a Ctrl-C in the
terminal does not reach it: lrtune alone decides when it ends. The supervisor ends it when lrtune
dies.
"""

import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lrtune.core.errors import InputError, TaskError
from lrtune.training.command import supervisor
from lrtune.training.command.lines import visible
from lrtune.training.command.supervisor import MARK_VARIABLE, Ending

GRACE_S = 10.0
"""Seconds from SIGTERM to SIGKILL."""
RESPONSE_S = 60.0
"""How long a supervisor may take to answer on a busy machine."""
PROCESS_FILE = "process.json"
"""A file in the run folder that tells which processes the run has."""
_LAST_BYTES = 64 * 1024


# --- the words of a command


def placeholders(command: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """Returns those of the names that a command has as placeholders, in order.

    Example:
        >>> placeholders(["train.py", "--seed={seed}", "${HOME}"], ["seed", "epochs"])
        ('seed',)
    """
    known = frozenset(names)
    return tuple(name for name in _names_in(command) if name in known)


def misspelt(command: Sequence[str], names: Iterable[str]) -> Iterator[str]:
    """Yields a message for each `{name}` in a command that is nearly one of the names.

    All other braces are the command's own.
    """
    known = list(names)
    for name in _names_in(command):
        near = get_close_matches(name, known, 1, cutoff=0.7)
        if near and name not in known:
            yield (
                f"{{{name}}} in the command stands for nothing; the nearest is {{{near[0]}}}. "
                f"{{{{{name}}}}} is the text {{{name}}}."
            )


def unknown(command: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names in braces that a command has besides these."""
    known = frozenset(names)
    return tuple(name for name in _names_in(command) if name not in known)


def _names_in(command: Sequence[str]) -> tuple[str, ...]:
    """The names that a command has in braces, in order; `{{name}}` is a text and none."""
    matches = (match for word in command for match in _PLACEHOLDER.finditer(word))
    return tuple(dict.fromkeys(match["name"] for match in matches if match["name"]))


def filled(command: Sequence[str], values: Mapping[str, object]) -> tuple[str, ...]:
    """Returns a command with its placeholders replaced by values.

    Only `{name}` with a known name is a placeholder, and `{{name}}` stands for the text `{name}`.
    All other braces are left as they are, since commands contain `${HOME}`, `{print $1}` and JSON.

    Args:
        command: the words of the command.
        values: a value for each known name. A float is written so that it reads back as it was.

    Example:
        >>> filled(["sh", "-c", "echo ${HOME} {seed} {{seed}} {x}"], {"seed": 3})
        ('sh', '-c', 'echo ${HOME} 3 {seed} {x}')
    """

    def fill(match: re.Match[str]) -> str:
        name = match["escaped"] or match["name"]
        if name not in values:
            return match[0]
        return f"{{{name}}}" if match["escaped"] else str(values[name])

    return tuple(_PLACEHOLDER.sub(fill, word) for word in command)


_PLACEHOLDER = re.compile(
    r"\{\{(?P<escaped>[A-Za-z_]\w*)\}\}|(?<!\$)\{(?P<name>[A-Za-z_]\w*)\}", re.ASCII
)


# --- how a command ended


@dataclass(frozen=True, kw_only=True)
class Exit:
    """How a command ended."""

    status: int | None
    """The exit code, or the negative number of the signal that ended it; `None` if it is unknown
    because the supervisor was killed."""
    was_ended: bool
    """Whether lrtune ended it."""
    seconds: float
    """From its start to the end of the last of its processes."""
    num_outliving: int = 0
    """Processes that outlived the command by more than a second, and were ended."""
    survivors: tuple[int, ...] = ()
    """Processes that could not be ended, even by SIGKILL."""
    log_problem: str = ""
    """Why the log is not complete, such as a full disk."""

    @property
    def succeeded(self) -> bool:
        """Whether the command ended by itself with exit code 0."""
        return self.status == 0 and not self.was_ended

    def __str__(self) -> str:
        if self.status is None:
            return "unknown exit code"
        if self.status >= 0:
            return f"exit code {self.status}"
        with suppress(ValueError):
            return f"signal {-self.status} ({signal.Signals(-self.status).name})"
        return f"signal {-self.status}"


# --- a command that runs


class Process:
    """A command that runs, or has run. As a context it ends the command when it is left.

    Example:
        >>> with Process.start(
        ...     ["python", "train.py"], folder=run_folder, environment={}, cwd=Path.cwd(),
        ...     log=run_folder / "log",
        ... ) as process:  # doctest: +SKIP
        ...     while process.poll() is None:
        ...         time.sleep(0.2)
    """

    def __init__(self, helper: subprocess.Popen[bytes], mark: str, log: Path):
        self.mark = mark
        """The value of `LRTUNE_MARK` in the environment of all processes of the command."""
        self.log = log
        self.log_start = log.stat().st_size
        """The size that the log had before the command was started."""
        self.pid = 0
        """The process id of the command, which is also that of its process group."""
        self.start_time = time.time()
        self._helper = helper
        self._grace_s = GRACE_S
        self._asked = False
        self._exit: Exit | None = None
        self._words = b""

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        cwd: Path,
        log: Path,
        grace_s: float = GRACE_S,
    ) -> Self:
        """Starts a command, and returns once it runs.

        Its standard input is empty. Its standard output and error go to the log, which keeps the
        first 8 MiB and the last 8 MiB, and says how much was left out.

        Args:
            command: program and arguments. Placeholders are not replaced.
            folder: the run folder, which is made if it does not exist. The file `process.json`
                there tells `end_leftovers` which processes the run has.
            environment: variables besides those of this process.
            cwd: the working directory of the command.
            log: a file, which is appended to.
            grace_s: seconds from SIGTERM to SIGKILL when the command is ended.

        Raises:
            InputError: the command cannot be started, or its folder does not exist.
            TaskError: the supervisor failed.
        """
        if os.name != "posix":
            raise InputError("Commands can be steered on Linux and macOS only.")
        if not command:
            raise InputError("The command must not be empty. Write it after `--`.")
        if not cwd.is_dir():
            raise InputError(f"The working directory of the command must exist, but got {cwd}.")
        folder.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        mark = environment.get(MARK_VARIABLE) or uuid.uuid4().hex
        request = {
            "command": list(command),
            "cwd": str(cwd),
            "environment": {**environment, MARK_VARIABLE: mark},
            "log": str(log.absolute()),
            "mark": mark,
            "grace_s": grace_s,
        }
        words = [sys.executable, "-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}"]
        helper = subprocess.Popen(  # noqa: S603 -- this Python, and a file of lrtune
            [*words, supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        process = cls(helper, mark, log)
        process._grace_s = grace_s
        try:
            process._ask(json.dumps(request))
            process._began(process._report(RESPONSE_S), command, cwd)
            content = {"mark": mark, "pid": process.pid, "command": list(command)}
            (folder / PROCESS_FILE).write_text(json.dumps(content))
        except BaseException:
            process._abandon()
            raise
        return process

    def _began(self, report: dict[str, Any], command: Sequence[str], cwd: Path) -> None:
        """Notes that the command was started; raises if it was not."""
        if "failed" in report:
            raise InputError(_not_started(command, cwd, report["failed"], report["message"]))
        if "pid" not in report:
            reason = report.get("broken") or "its supervisor did not answer"
            raise TaskError(f"The command could not be started: {reason}.")
        self.pid, self.start_time = report["pid"], report["time"]

    def poll(self) -> Exit | None:
        """Returns how the command ended; `None` while it, or a process that it left, still runs."""
        return self.wait(0.0)

    def wait(self, timeout_s: float | None = None) -> Exit | None:
        """Waits until the command has ended and nothing of it is left.

        Returns:
            How it ended; `None` if it still runs after the time.
        """
        if self._exit is None:
            report = self._report(timeout_s)
            if report is not None:
                self._finish(report)
        return self._exit

    def end(self, grace_s: float | None = None) -> Exit:
        """Ends the command and all that it started: SIGTERM, and SIGKILL after the grace time.

        It may be called again with a shorter grace time, for instance after an interrupt.

        Args:
            grace_s: seconds from SIGTERM to SIGKILL; by default what `start` was given.
        """
        if ended := self.poll():
            return ended
        self._grace_s = grace_s = self._grace_s if grace_s is None else grace_s
        self._asked = True
        self._ask(f"end {grace_s}")
        ended = self.wait(grace_s + supervisor.UNKILLABLE_S + RESPONSE_S)
        if ended is None:  # the supervisor was stopped, say
            self._finish({})
        assert self._exit is not None
        return self._exit

    def last_lines(self, count: int = 20) -> tuple[str, ...]:
        """Returns the last lines that the command printed; see `last_lines` of this module."""
        return last_lines(self.log, count, start=self.log_start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    # --- the supervisor

    def _ask(self, line: str) -> None:
        """Sends a line to the supervisor, which may have ended."""
        assert self._helper.stdin is not None
        content = memoryview(f"{line}\n".encode())
        with suppress(BrokenPipeError):
            while content:
                content = content[self._helper.stdin.write(content) :]

    def _report(self, timeout_s: float | None) -> Any:
        """Returns the next message of the supervisor, `{}` if it has died, or `None`."""
        assert self._helper.stdout is not None
        poll = select.poll()
        poll.register(self._helper.stdout, select.POLLIN)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._words:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not poll.poll(None if left_s is None else 1000 * left_s):
                return None
            content = self._helper.stdout.read(65536)
            if not content:
                return {}
            self._words += content
        line, _, self._words = self._words.partition(b"\n")
        return json.loads(line)

    def _finish(self, report: Mapping[str, Any]) -> None:
        """Notes how the command ended; does the supervisor's work where that could not."""
        survivors = tuple(report.get("survivors", ()))
        if "status" not in report:
            self._helper.kill()
            survivors = _end_now(self.pid, self.mark, self._grace_s)
        self._close()
        self._exit = Exit(
            status=report.get("status"),
            was_ended=self._asked,
            seconds=max(0.0, report.get("time", time.time()) - self.start_time),
            num_outliving=report.get("outliving", 0),
            survivors=survivors,
            log_problem=report.get("log_problem", ""),
        )

    def _abandon(self) -> None:
        """Gives up a command whose start failed or was interrupted."""
        self._close(timeout_s=supervisor.UNKILLABLE_S)
        _end_now(self.pid, self.mark, grace_s=0.0)

    def _close(self, timeout_s: float = RESPONSE_S) -> None:
        """Closes the pipes, and waits for the supervisor, so that it does not become a zombie."""
        for file in (self._helper.stdin, self._helper.stdout):
            assert file is not None
            file.close()
        try:
            self._helper.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._helper.kill()
            self._helper.wait()


def end_leftovers(folder: Path, grace_s: float = GRACE_S) -> int:
    """Ends what is left of a run whose lrtune and supervisor were both killed.

    Args:
        folder: the run folder that `Process.start` was given.
        grace_s: seconds from SIGTERM to SIGKILL.

    Returns:
        The number of processes that were found.
    """
    try:
        mark = json.loads((folder / PROCESS_FILE).read_text())["mark"]
    except (OSError, ValueError, KeyError):
        return 0  # no command was started there
    ending = Ending(None, mark, grace_s)
    while not ending.go_on():
        time.sleep(ending.pause_s)
    return len(ending.asked)


def _end_now(group: int, mark: str, grace_s: float) -> tuple[int, ...]:
    """Ends the processes of a command without a supervisor. Returns those that remain."""
    ending = Ending(group or None, mark, grace_s)
    while not ending.go_on():
        time.sleep(ending.pause_s)
    return tuple(ending.left)


def _not_started(command: Sequence[str], cwd: Path, number: int, reason: str) -> str:
    """Returns the message for a command that could not be started."""
    path = cwd / command[0]
    if "/" not in command[0]:
        if number == errno.ENOENT:
            reason = "there is no such program on PATH"
            if path.is_file():
                reason += f" (for the file in {cwd}, write ./{command[0]})"
    elif path.is_dir():
        reason = "it is a folder"
    elif not path.exists():
        reason = f"the file does not exist (the working directory is {cwd})"
    elif number == errno.ENOENT:
        reason = "the program in its first line (#!) does not exist"
    elif number == errno.EACCES:
        reason = f"the file is not executable (`chmod +x {command[0]}` makes it so)"
    elif number == errno.ENOEXEC:
        reason = "it is not a program, and its first line (#!) does not name one"
    return f"The command {command[0]!r} could not be started: {reason}."


# --- its output


def last_lines(log: Path, count: int = 20, *, start: int = 0) -> tuple[str, ...]:
    """Returns the last lines of a log that are not empty, as a terminal shows them.

    Args:
        log: the file; if it does not exist there are no lines.
        count: the largest number of lines.
        start: the position in the file from which on lines count.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(min(start, size), size - _LAST_BYTES))
            content = file.read(_LAST_BYTES)
    except FileNotFoundError:
        return ()
    lines = map(visible, content.decode(errors="replace").split("\n"))
    return tuple([line.rstrip()[:500] for line in lines if line.strip()][-count:])
