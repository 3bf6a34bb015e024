"""The wiring: one function a command."""

from lrtune.app.commands import dashboard, find_lr, report, resume, search, studies

__all__ = ["dashboard", "find_lr", "report", "resume", "search", "studies"]
