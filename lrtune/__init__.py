"""lrtune: auto-tuning learning-rate search for PyTorch.

    import lrtune

    result = lrtune.search(task, space="default", budget=50)
    result.best.recipe, result.best.schedule(step)

Names are imported when they are first used, so that importing lrtune, or asking the command line
for help, does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrtune.app import apply, compare, export, find_lr, load, report, resume, search
    from lrtune.app.commands import studies
    from lrtune.auditing.audit import Audit, audit
    from lrtune.auditing.lightning import AuditCallback
    from lrtune.auditing.watch import watch
    from lrtune.core.engines import Local, Ray
    from lrtune.core.errors import DataError, InputError, LrtuneError, StoreError, TaskError
    from lrtune.core.objective import Objective
    from lrtune.core.recipe import NamedRecipe, Recipe
    from lrtune.core.sources import NamedTask, TaskFile
    from lrtune.core.study import TrainSettings
    from lrtune.reporting.result import SearchResult
    from lrtune.schedules import build_schedule
    from lrtune.training.native.range_test import range_test
    from lrtune.training.task import Task

_HOMES = {
    "Audit": "auditing.audit", "audit": "auditing.audit",
    "AuditCallback": "auditing.lightning", "watch": "auditing.watch",
    "apply": "app", "compare": "app", "export": "app", "find_lr": "app",
    "load": "app", "report": "app", "resume": "app", "search": "app", "studies": "app",
    "Local": "core.engines", "Ray": "core.engines",
    "DataError": "core.errors", "InputError": "core.errors", "LrtuneError": "core.errors",
    "StoreError": "core.errors", "TaskError": "core.errors",
    "Objective": "core.objective", "NamedRecipe": "core.recipe", "Recipe": "core.recipe",
    "TrainSettings": "core.study", "build_schedule": "schedules",
    "SearchResult": "reporting.result", "range_test": "training.native.range_test",
    "NamedTask": "core.sources", "TaskFile": "core.sources", "Task": "training.task",
}  # fmt: skip

__all__ = [
    "Audit", "AuditCallback", "DataError", "InputError", "Local", "LrtuneError", "NamedRecipe",
    "NamedTask", "Objective", "Ray", "Recipe", "SearchResult", "StoreError", "Task", "TaskError",
    "TaskFile", "TrainSettings", "apply", "audit", "build_schedule", "compare", "export", "find_lr",
    "load", "range_test", "report", "resume", "search", "studies", "watch",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lrtune' has no attribute {name!r}")
    return getattr(import_module(f"lrtune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
