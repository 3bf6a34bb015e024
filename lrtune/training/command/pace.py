"""How many steps an epoch has where a placeholder of the command, such as a batch size, changes it.

A schedule is made for the steps of the command as it is. A run that makes twice as many an epoch
has a *pace* of 2: the LR of its step `t` is that of step `t / 2` of the schedule. The pace of some
values is known once a run with them has ended its first epoch.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILE = "paces.json"


def known_pace(folder: Path, values: Mapping[str, Any]) -> float | None:
    """The pace that runs with these values of the placeholders have had; `None` before the first.

    Args:
        folder: of the runs of a study.
        values: by name.
    """
    return _paces(folder).get(_key(values))


def keep_pace(folder: Path, values: Mapping[str, Any], pace: float) -> None:
    """Keeps the pace of runs with these values, for all runs of a study."""
    paces = _paces(folder) | {_key(values): pace}
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{FILE}.{os.getpid()}"
    new.write_text(json.dumps(paces))
    new.replace(folder / FILE)


def at_pace(lr: Callable[[int], float], pace: float) -> Callable[[int], float]:
    """The LR of each step of a run at this pace, by that of each step of the schedule."""
    return lambda step: lr(int(step / pace))


def num_steps_at(pace: float, num_planned: int) -> int:
    """Steps that a run at this pace makes where so many are planned."""
    return max(1, round(num_planned * pace))


def _paces(folder: Path) -> dict[str, float]:
    try:
        paces: dict[str, float] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return paces


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True)
