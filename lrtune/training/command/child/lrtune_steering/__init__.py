"""The part of lrtune that runs inside a steered command.

It stands alone: it needs Python 3.8 and, where the command trains, torch 2.0, and it imports no
lrtune, except where the command is audited and it can (`auditing`). `sitecustomize` calls `start()`
in every Python process of the command. Nothing but the watch on imports happens there until the
process imports a module that is watched:

- `random`, `numpy.random` and `torch.random`: seeds are offset (`seeds`);
- `torch.optim.optimizer`: learning rates are set and steps are counted (`steps`), and the output of
  the process is kept with the step at which each line was written (`output`);
- the trainers of Lightning and transformers, and TensorBoard's writer: what they log is kept
  (`trainers`).

An error in here never reaches the program. It is written to `child-errors.log` in the run folder.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Mapping

_HERE = os.path.dirname(os.path.abspath(__file__))
_started: list[Any] = []  # the session of this process, once it has started


def start() -> None:
    """Starts the steering of this process by the run folder that `LRTUNE_STEER` names."""
    if _started:
        return
    from .session import Session

    session = Session(os.environ["LRTUNE_STEER"])
    _started.append(session)
    sys.path.append(os.path.join(os.path.dirname(_HERE), "stub"))  # last: a real lrtune wins
    session.start()


def report(values: Mapping[str, Any], source: str = "report") -> bool:
    """Keeps values of metrics with the number of steps made so far.

    Args:
        values: by name. A tensor with one element is a number too.
        source: who reports them.

    Returns:
        Whether training should go on; true in a process that is not steered.

    Raises:
        TypeError: if a value is not a number.
    """
    numbers = {}
    for name, value in values.items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"`lrtune.report` takes numbers, but got {name}={value!r}.") from None
    if not _started:
        return True
    return bool(_started[0].report(numbers, source))


def run_dir() -> str | None:
    """The folder for the files that the run writes, or `None` in a process that is not steered."""
    return os.environ.get("LRTUNE_RUN_DIR") or None if _started else None


def note_error() -> None:
    """Writes the exception that is being handled to `child-errors.log` in the run folder."""
    if _started:
        _started[0].note_error()
