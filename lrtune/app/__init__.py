"""The wiring: one function a command."""

from lrtune.app.commands import compare, dashboard, export, find_lr, report, resume, search, studies

__all__ = ["compare", "dashboard", "export", "find_lr", "report", "resume", "search", "studies"]
