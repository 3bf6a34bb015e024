"""The exceptions that users may see.

    LrtuneError
    ├── InputError       what was asked for breaks a rule; every broken rule is listed
    ├── DataError        images that are not where they should be, or cannot be read
    ├── TaskError        the user's own task failed
    ├── TrialError       one run cannot go on (out of memory, say); the search can
    └── StoreError       the database or a checkpoint cannot be used

The command line prints the message of any of them without a traceback and exits with code 2.
"""

import re
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST_QUOTE = 200


class LrtuneError(Exception):
    """Base of all exceptions that lrtune raises on purpose."""

    def __reduce__(self) -> tuple[Callable[..., "LrtuneError"], tuple[Any, ...]]:
        # Python sends no traceback to another process, so that of the cause goes there as text.
        trace = "".join(traceback.format_exception(self.__cause__)) if self.__cause__ else ""
        return _received, (type(self), self.args, self.__dict__, trace)


class WorkerTraceback(Exception):  # noqa: N818
    """The cause of an error that came from another process: the text of its traceback."""


def _received(
    kind: type[LrtuneError], args: tuple[Any, ...], attributes: Mapping[str, Any], trace: str
) -> LrtuneError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    error.__cause__ = WorkerTraceback(f"\n{trace}") if trace else None
    return error


class InputError(LrtuneError):
    """What was asked for breaks one rule or several."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(LrtuneError):
    """Images that are not where they should be, or that cannot be read."""


class TaskError(LrtuneError):
    """The user's own task failed: its file, its model, its data or its loss."""


class TrialError(LrtuneError):
    """One run cannot go on; the search can."""


class StoreError(LrtuneError):
    """The study's database, or a checkpoint beside it, cannot be used."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_of_user(file: str) -> bool:
    """Whether a file of Python code is neither lrtune's, nor Python's, nor an installed package's.

    What was typed at a prompt has no file, but is the user's own.
    """
    if not file.endswith(".py"):
        return file.startswith(_PROMPTS)
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = [*map(sysconfig.get_path, names), str(Path(__file__).parents[1])]
    return not any(Path(file).is_relative_to(library) for library in libraries)


def raised(error: BaseException) -> str:
    """What a user's own code raised and where, as Python would print it.

    The first line is the error. The last frames of the user's own files follow, innermost last, and
    then the notes of the error. A worker of a `DataLoader` sends its error as the text of a
    traceback, which is read alike.
    """
    message, is_sent, sent = str(error).partition("Original Traceback (most recent call last):\n")
    what = f"{type(error).__name__}: {message}".rstrip(": ")
    if is_sent:
        what = next(line for line in reversed(sent.splitlines()) if line[:1].strip())
    trace = "".join(traceback.format_tb(error.__traceback__)) + sent
    frames = [frame[0] for frame in _FRAME.finditer(trace) if is_of_user(frame["file"])]
    return "\n".join((what, *frames[-MOST_FRAMES:], *getattr(error, "__notes__", ())))


_PROMPTS = ("<stdin>", "<ipython-input", "<python-input")
_FRAME = re.compile(r'^  File "(?P<file>.+)", line \d+, in .+(\n    .+)?', re.MULTILINE)
"""A frame in the text of a traceback, and its line of code where Python has found it."""
MOST_FRAMES = 5
"""Of the user's own code in a message."""


def quoted(value: object) -> str:
    """A value as a message quotes it; the end of a long one is left out."""
    try:
        text = repr(value)
    except Exception:  # of an integer of thousands of digits, or of a class of the user's
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def check(rules: Iterable[tuple[bool, str]]) -> None:
    """Raises `InputError` with the message of every rule that does not hold.

    Args:
        rules: whether each holds, and what is said where it does not.
    """
    problems = [message for holds, message in rules if not holds]
    if problems:
        raise InputError(problems)


class Problems(list[str]):
    """Broken rules gathered from several places, so that they are shown together."""

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keeps the problems of an `InputError` raised inside, and goes on."""
        try:
            yield
        except InputError as error:
            self.extend(error.problems)

    def raise_any(self) -> None:
        """Raises `InputError` with all that was gathered, each once, if anything was."""
        if self:
            raise InputError(list(dict.fromkeys(self)))
