"""What an export is."""

from dataclasses import dataclass

from lrtune.core.commands import Target


@dataclass(frozen=True, kw_only=True)
class Export:
    """A recipe as code for a framework, or as data."""

    to: Target
    text: str
    """Code, JSON or TOML, to paste."""
    note: str
    """What the code needs from its reader, and what the recipe was found with."""
