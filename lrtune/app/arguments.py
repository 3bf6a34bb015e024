"""What commands are given: the checks and defaults that several of them share."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, get_args

from lrtune.core.engines import Engine, EngineName, Local, Ray
from lrtune.core.errors import InputError, Problems
from lrtune.core.study import StudyConfig
from lrtune.store.encoding import digest
from lrtune.training.task import NamedTask, Task, TaskFile, TaskSource, change_settings


def default_name(task_name: str, config: StudyConfig) -> str:
    """Readable, and the same for the same command: `digits-small-cnn-20ep-default-b416c0`."""
    what = "comparison" if config.is_comparison else Path(config.space_name).stem
    words = f"{task_name}-{config.epochs}ep-{what}"
    return f"{re.sub(r'[^A-Za-z0-9_.+]+', '-', words)[-100:].strip('-.')}-{digest(config)}"


def task_source(task: TaskSource | str | Path) -> TaskSource:
    """What is meant by a task: a path is that of a file.

    Raises:
        InputError: it is nothing of the kind.
    """
    if isinstance(task, str | Path):
        return TaskFile(path=Path(task))
    if not isinstance(task, Task | NamedTask | TaskFile):
        kinds = "an lrtune.Task, an lrtune.NamedTask or the path of a Python file"
        raise InputError(f"`task` must be {kinds}, but got a {type(task).__name__}.")
    return task


def check_study(
    problems: Problems,
    *,
    epochs: int | None,
    target: float | None,
    num_seeds: int,
    max_seeds: int | None,
    seed: int,
    study: str | None,
) -> None:
    """Notes what is wrong with the arguments that a search and a comparison share."""
    check_whole(problems, 1, num_seeds=num_seeds, epochs=1 if epochs is None else epochs)
    check_whole(problems, 0, seed=seed, max_seeds=0 if max_seeds is None else max_seeds)
    if isinstance(num_seeds, int) and isinstance(max_seeds, int) and max_seeds < num_seeds:
        problems.append(
            f"`num_seeds <= max_seeds` must hold, but got num_seeds={num_seeds}, max_seeds={max_seeds}."
        )
    if target is not None and not (isinstance(target, Real) and 1 < target <= 100):
        meant = (
            f": did you mean {100 * target:g}?"
            if isinstance(target, Real) and 0 < target <= 1
            else "."
        )
        problems.append(f"`1 < target <= 100` must hold, in percent, but got {target!r}{meant}")
    if study is not None:
        with problems.gather():
            check_name(study)


def check_whole(problems: Problems, least: int, **given: object) -> None:
    """Notes which of the arguments are no whole numbers, or are below the least that they may be."""
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool):
            problems.append(f"`{name}` must be a whole number, but got {value!r}.")
        elif value < least:
            problems.append(f"`{least} <= {name}` must hold, but got {value}.")


def engine_of(engine: EngineName | Engine) -> Engine:
    """The engine that is meant.

    Raises:
        InputError: there is none such.
    """
    match engine:
        case Local() | Ray():
            return engine
        case "local":
            return Local()
        case "ray":
            return Ray()
    known = ", ".join(get_args(EngineName))
    raise InputError(f"`engine` must be one of {known}, or a Local or a Ray, but got {engine!r}.")


def with_settings(task: Task, changes: Mapping[str, Any] | None, engine: Engine) -> Task:
    """The task with the settings that its runs have: its own, changed, and its engine's share of the threads.

    Raises:
        InputError: settings that cannot be, or do not go with the task.
    """
    return replace(
        task, settings=change_settings(task, {"threads": threads_of(engine)} | dict(changes or {}))
    )


def threads_of(engine: Engine) -> int:
    """CPU threads of a run: its share of the cores, and no more than `OMP_NUM_THREADS`."""
    share = max(
        1, num_cores() // engine.jobs if isinstance(engine, Local) else int(engine.cpus_per_trial)
    )
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdecimal() and int(limit) else share


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_name(name: str) -> None:
    """A study's name is a folder's name too."""
    if (
        not all(c.isalnum() or c in "-_.+" for c in name)
        or name.startswith(".")
        or not 0 < len(name) <= 150
    ):
        raise InputError(
            f"`study` must consist of letters, digits and -_.+, and not begin with a dot, but got {name!r}."
        )
