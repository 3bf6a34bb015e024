"""What commands are given: the checks and defaults that several of them share."""

import os
import re
from pathlib import Path
from typing import get_args

from lrtune.core.engines import Engine, EngineName, Local, Ray
from lrtune.core.errors import InputError, Problems
from lrtune.core.study import StudyConfig
from lrtune.store.encoding import digest
from lrtune.training.task import NamedTask, Task, TaskFile, TaskSource


def default_name(task_name: str, what: str, config: StudyConfig) -> str:
    """Readable, and the same for the same command: `digits-small-cnn-20ep-default-b416c0`."""
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
    problems: Problems, *, epochs: int | None, target: float | None, num_seeds: int, max_seeds: int, study: str | None
) -> None:
    """Notes what is wrong with the arguments that a search and a comparison share."""
    for name, value in (("num_seeds", num_seeds), ("epochs", 1 if epochs is None else epochs)):
        if value < 1:
            problems.append(f"`1 <= {name}` must hold, but got {value}.")
    if max_seeds < num_seeds:
        problems.append(f"`num_seeds <= max_seeds` must hold, but got num_seeds={num_seeds}, max_seeds={max_seeds}.")
    if target is not None and not 0 < target <= 100:
        problems.append(f"`0 < target <= 100` must hold, in percent, but got {target}.")
    if study is not None:
        with problems.gather():
            check_name(study)


def engine_of(engine: EngineName | Engine, jobs: int, lanes: str | int) -> Engine:
    """The engine that is meant.

    Raises:
        InputError: there is none such, or `jobs` and `lanes` do not go with it.
    """
    if engine == "local":
        return Local(jobs=jobs, lanes=lanes)
    if engine == "ray":
        engine = Ray()
    if not isinstance(engine, Local | Ray):
        known = ", ".join(get_args(EngineName))
        raise InputError(f"`engine` must be one of {known}, or a Ray or a Local, but got {engine!r}.")
    if (jobs, lanes) != (1, "auto"):
        raise InputError(
            f"`jobs` and `lanes` go with the local engine, but got jobs={jobs} and lanes={lanes} beside {engine}."
        )
    return engine


def threads_of(engine: Engine) -> int:
    """CPU threads of a run: its share of the cores, and no more than `OMP_NUM_THREADS`."""
    share = max(1, num_cores() // engine.jobs if isinstance(engine, Local) else int(engine.cpus_per_trial))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdecimal() and int(limit) else share


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_name(name: str) -> None:
    """A study's name is a folder's name too."""
    if not all(c.isalnum() or c in "-_.+" for c in name) or name.startswith(".") or not 0 < len(name) <= 150:
        raise InputError(
            f"`study` must consist of letters, digits and -_.+, and not begin with a dot, but got {name!r}."
        )
