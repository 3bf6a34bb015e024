"""lrtune: auto-tuning learning-rate search for PyTorch.

    import lrtune

    result = lrtune.search(task, space="default", budget=50)
    result.best.recipe, result.best.schedule(step)

Names are imported when they are first used, so that importing lrtune, or asking the command line
for help, does not import torch.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from lrtune.app import apply, compare, export, find_lr, load, resume, search
    from lrtune.app.commands import studies
    from lrtune.auditing.audit import Audit, audit
    from lrtune.auditing.lightning import AuditCallback
    from lrtune.auditing.watch import watch
    from lrtune.core.engines import Local, Ray
    from lrtune.core.errors import DataError, InputError, LrtuneError, StoreError, TaskError
    from lrtune.core.objective import Objective
    from lrtune.core.recipe import NamedRecipe, Recipe
    from lrtune.core.sources import CommandLine, NamedTask, TaskFile
    from lrtune.core.study import TrainSettings
    from lrtune.reporting.result import SearchResult
    from lrtune.schedules import build_schedule
    from lrtune.training.native.range_test import range_test
    from lrtune.training.task import Task

_HOMES = {
    "Audit": "auditing.audit", "audit": "auditing.audit",
    "AuditCallback": "auditing.lightning", "watch": "auditing.watch",
    "apply": "app", "compare": "app", "export": "app", "find_lr": "app",
    "load": "app", "resume": "app", "search": "app", "studies": "app",
    "Local": "core.engines", "Ray": "core.engines",
    "DataError": "core.errors", "InputError": "core.errors", "LrtuneError": "core.errors",
    "StoreError": "core.errors", "TaskError": "core.errors",
    "Objective": "core.objective", "NamedRecipe": "core.recipe", "Recipe": "core.recipe",
    "TrainSettings": "core.study", "build_schedule": "schedules",
    "SearchResult": "reporting.result", "range_test": "training.native.range_test",
    "CommandLine": "core.sources", "NamedTask": "core.sources", "TaskFile": "core.sources",
    "Task": "training.task",
}  # fmt: skip

__all__ = [
    "Audit", "AuditCallback", "CommandLine", "DataError", "InputError", "Local", "LrtuneError",
    "NamedRecipe", "NamedTask", "Objective", "Ray", "Recipe", "SearchResult", "StoreError",
    "Task", "TaskError", "TaskFile", "TrainSettings", "apply", "audit", "build_schedule",
    "compare", "export", "find_lr", "load", "range_test", "report", "resume", "run_dir",
    "search", "studies", "watch",
]  # fmt: skip


@overload
def report(
    name: str, *, home: str | Path = ..., out: str | Path = ..., storage: str = ...
) -> "SearchResult": ...
@overload
def report(**values: float) -> bool: ...
def report(*args: Any, **options: Any) -> Any:
    """Reports the metrics of a training that lrtune steers, or writes the report of a study.

    `lrtune.report(val_loss=0.31, f1=0.8)` in a training script hands over the metrics of an
    evaluation. It returns false if the training should stop now. Where lrtune does not steer the
    script, it does nothing and returns true.

    `lrtune.report("my-study")` writes the report of a study again, finished or not. The options are
    `home`, `out` and `storage`.

    Raises:
        TypeError: a metric is not a number.
        InputError: there is no such study.
    """
    if args or isinstance(options.get("name"), str):
        return import_module("lrtune.app").report(*args, **options)
    steering = sys.modules.get("lrtune_steering")
    return True if steering is None else bool(steering.report(options))


def run_dir() -> Path:
    """Returns the folder for what a training that lrtune steers writes.

    Where lrtune does not steer it, that is the working directory.
    """
    steering = sys.modules.get("lrtune_steering")
    folder = None if steering is None else steering.run_dir()
    return Path(folder or ".")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lrtune' has no attribute {name!r}")
    return getattr(import_module(f"lrtune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
