"""The wiring: one function a command."""

from lrtune.app.applying import apply
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
    "apply", "compare", "dashboard", "delete", "export", "find_lr", "load", "report", "resume",
    "search", "studies",
]  # fmt: skip
