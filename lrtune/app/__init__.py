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
from lrtune.app.steering import apply_to_command, audit_command, log

__all__ = [
    "apply", "apply_to_command", "audit_command", "compare", "dashboard", "delete", "export",
    "find_lr", "load", "log", "report", "resume", "search", "studies",
]  # fmt: skip
