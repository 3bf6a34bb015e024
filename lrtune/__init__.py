"""lrtune: auto-tuning learning-rate search for PyTorch.

    import lrtune

    result = lrtune.search(task, space="default", budget=50)
    result.best.recipe, result.best.schedule(step)

Names are imported when they are first used, so that importing lrtune, or asking the command line
for help, does not import torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrtune.app import compare, export, find_lr, load, resume, search
    from lrtune.app.commands import studies
    from lrtune.core.engines import Local, Ray
    from lrtune.core.errors import DataError, InputError, LrtuneError, StoreError, TaskError
    from lrtune.core.recipe import NamedRecipe, Recipe
    from lrtune.core.study import TrainSettings
    from lrtune.integrations.audit import Audit, audit
    from lrtune.integrations.watch import watch
    from lrtune.report.result import SearchResult
    from lrtune.schedules import build_schedule
    from lrtune.training.range_test import range_test
    from lrtune.training.task import NamedTask, Task, TaskFile

_HOMES = {
    "Audit": "integrations.audit", "audit": "integrations.audit", "watch": "integrations.watch",
    "compare": "app", "export": "app", "find_lr": "app", "load": "app", "resume": "app", "search": "app",
    "studies": "app",
    "Local": "core.engines", "Ray": "core.engines",
    "DataError": "core.errors", "InputError": "core.errors", "LrtuneError": "core.errors",
    "StoreError": "core.errors", "TaskError": "core.errors",
    "NamedRecipe": "core.recipe", "Recipe": "core.recipe", "TrainSettings": "core.study", "build_schedule": "schedules",
    "SearchResult": "report.result", "range_test": "training.range_test",
    "NamedTask": "training.task", "Task": "training.task", "TaskFile": "training.task",
}  # fmt: skip

__all__ = [
    "Audit", "DataError", "InputError", "Local", "LrtuneError", "NamedRecipe", "NamedTask", "Ray", "Recipe",
    "SearchResult", "StoreError", "Task", "TaskError", "TaskFile", "TrainSettings", "audit", "build_schedule",
    "compare", "export", "find_lr", "load", "range_test", "resume", "search", "studies", "watch",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lrtune' has no attribute {name!r}")
    return getattr(import_module(f"lrtune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `lrtune.search` the function: the import of the subpackage of that name would take it over."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
