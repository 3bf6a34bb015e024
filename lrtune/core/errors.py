"""The exceptions that users may see.

    LrtuneError
    ├── InputError       what was asked for breaks a rule; every broken rule is listed
    ├── DataError        images that are not where they should be, or cannot be read
    ├── TaskError        the user's own task failed
    ├── TrialError       one run cannot go on (out of memory, say); the search can
    └── StoreError       the database or a checkpoint cannot be used

The command line prints the message of any of them without a traceback and exits with code 2.
"""

import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LONGEST_QUOTE = 200


class LrtuneError(Exception):
    """Base of all exceptions that lrtune raises on purpose."""


class InputError(LrtuneError):
    """What was asked for breaks one rule or several."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)  # worker processes hand exceptions over by value


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


def place_of(error: BaseException) -> str:
    """Where a user's own code raised: ` (net.py:29, in forward)`, or nothing."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    libraries = (*map(sysconfig.get_path, names), str(Path(__file__).parents[1]))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.endswith(".py") and not frame.filename.startswith(libraries):
            return f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})"
    return ""


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
