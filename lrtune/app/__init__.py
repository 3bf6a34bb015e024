"""The wiring: one function a command."""

from lrtune.app.commands import dashboard, export, find_lr, report, resume, search, studies
from lrtune.app.comparison import compare

__all__ = ["compare", "dashboard", "export", "find_lr", "report", "resume", "search", "studies"]
