"""The wiring: one function a command."""

from lrtune.app.commands import (
    dashboard,
    delete,
    export,
    find_lr,
    load,
    report,
    resume,
    search,
    studies,
)
from lrtune.app.comparison import compare

__all__ = [
    "compare", "dashboard", "delete", "export", "find_lr", "load", "report", "resume", "search", "studies",
]  # fmt: skip
