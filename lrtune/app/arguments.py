"""What the arguments of a command stand for: task, metric, settings, threads, GPUs."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from inspect import isfunction
from pathlib import Path
from typing import Any

import torch

from lrtune.core.engines import EngineOptions, Local
from lrtune.core.errors import InputError, Problems, check
from lrtune.core.objective import Objective
from lrtune.core.sources import CommandLine, NamedTask, TaskFile, TaskSource, TypedTask
from lrtune.core.study import StudyConfig, TrainSettings
from lrtune.training.task import Task, change_settings, load_task

MOST_CHARACTERS, MOST_BYTES = 150, 255
"""Of a study's name; a file system counts the bytes."""


def task_source(task: TaskSource | str | Path | Callable[[], object]) -> TaskSource:
    """Returns the source of a task; a path is that of a Python file.

    Raises:
        InputError: the argument is no task and no path, or what was typed breaks a rule.
    """
    match task:
        case str() | Path():
            return TaskFile(path=Path(task))
        case TypedTask():
            task.sound(problems := Problems())
            problems.raise_any()
            return task.source
        case Task() | NamedTask() | TaskFile() | CommandLine():
            return task
        case _ if isfunction(task):
            return CommandLine.calling(task)
    kinds = (
        "an lrtune.Task, an lrtune.NamedTask, an lrtune.CommandLine or the path of a Python file"
    )
    raise InputError(f"`task` must be {kinds}, but got a {type(task).__name__}.")


def open_task(source: TaskSource, metric: str | Objective | None) -> Task:
    """Returns a task; a given metric replaces its own.

    Raises:
        InputError: there is no such task, or it does not measure this metric.
    """
    loaded = load_task(source)
    if metric is None:
        return loaded
    return replace(loaded, objective=_asked_for(metric, loaded))


def _asked_for(metric: str | Objective, task: Task) -> Objective:
    """The objective that is meant; the task's own tells the direction of its name."""
    name = metric.metric if isinstance(metric, Objective) else metric.partition(":")[0].strip()
    if name not in task.measured:
        raise InputError(
            f"`metric` must be one that the training measures ({', '.join(task.measured)}), but "
            f"got {name!r}."
        )
    if isinstance(metric, Objective):
        return metric
    return task.decides if metric.strip() == task.decides.metric else Objective.parse(metric)


def objective_of(
    task: object, metric: str | Objective | None, loaded: Task | None
) -> Objective | None:
    """What decides, if that is known of a task that may not have been loaded."""
    if loaded is not None:
        return loaded.decides
    if metric is None:
        return Objective() if isinstance(task, NamedTask) else None
    with suppress(InputError):  # which was noted
        return Objective.parse(metric) if isinstance(metric, str) else metric
    return None


def changed_settings(asked: TrainSettings) -> dict[str, Any]:
    """Returns the training settings that were given to a command; the others are the task's."""
    given = asked.values(TrainSettings)
    return {name: value for name, value in given.items() if name in asked.given}


def with_settings(
    task: Task, changes: Mapping[str, Any], engine: EngineOptions, source: TaskSource
) -> Task:
    """Returns the task with the settings that its runs have.

    They are the task's own with the changes, and the number of threads of a run.

    Args:
        task: loaded.
        changes: of its settings.
        engine: where its runs happen.
        source: of the task.

    Raises:
        InputError: a setting breaks a rule, or does not fit the task.
    """
    settings = change_settings(task, changes)
    if "threads" not in changes:
        threads = threads_of(engine, settings.device, source=source)
        settings = replace(settings, threads=threads)
    return replace(task, settings=settings)


def threads_of(engine: EngineOptions, device: str, *, source: TaskSource) -> int:
    """Returns the CPU threads of a run, at most `OMP_NUM_THREADS`.

    Their number moves the last bits of what is computed on a CPU. So there it does not depend on
    the number of jobs, where several processes can train: it is so small that all cores are in use
    when there are as many jobs as pay. Elsewhere a run has its share of the cores.

    Args:
        engine: where runs happen.
        device: from the settings.
        source: of what is trained.
    """
    if not isinstance(engine, Local):
        share = max(1, int(engine.cpus_per_trial))
    elif splits(source, device):
        share = max(1, num_cores() // StudyConfig.lag)
    else:
        share = max(1, num_cores() // num_jobs(engine, device))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdecimal() and int(limit) else share


def splits(source: TaskSource, device: str) -> bool:
    """Returns whether `--jobs auto` may divide the cores among several processes.

    They compute on the CPU, and load what is trained as this one did: by its name or its file. A
    `Task` of a program may not be picklable, and a command may write to a fixed place.
    """
    on_cpu = device == "cpu" or (device == "auto" and not visible_gpus(device))
    return on_cpu and isinstance(source, NamedTask | TaskFile)


def visible_gpus(device: str) -> tuple[str, ...]:
    """Returns the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them.

    Args:
        device: from the settings. Empty if it is a CPU or one particular GPU.
    """
    if device not in ("auto", "cuda"):
        return ()
    count = torch.cuda.device_count()
    if names := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return tuple(name.strip() for name in names.split(","))[:count]
    return tuple(map(str, range(count)))


def num_jobs(options: Local, device: str) -> int:
    """Returns the number of worker processes of the local engine on this machine.

    Raises:
        InputError: a GPU was chosen that is not visible.
    """
    return options.num_jobs(options.chosen_gpus(visible_gpus(device)))


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_name(name: str) -> None:
    """Raises `InputError` for a study's name that cannot be the name of a folder."""
    num_bytes = len(name.encode(errors="surrogateescape"))
    strange = "".join(dict.fromkeys(c for c in name if not (c.isalnum() or c in "-_.+")))
    check(
        [
            (name != "", "`study` must have at least 1 character, but got ''."),
            (
                not strange,
                "`study` must consist of letters, digits and -_.+, but got "
                f"{name!r} with {strange!r} in it.",
            ),
            (
                not name.startswith("."),
                f"`study` must not begin with a dot, but got {name!r}.",
            ),
            (
                len(name) <= MOST_CHARACTERS,
                f"`study` must have at most {MOST_CHARACTERS} characters, but got {len(name)}.",
            ),
            (
                num_bytes <= MOST_BYTES,
                f"`study` must have at most {MOST_BYTES} bytes in UTF-8, as the name of a folder, "
                f"but got {num_bytes}, for {len(name)} characters.",
            ),
        ]
    )
