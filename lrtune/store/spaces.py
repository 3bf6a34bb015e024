"""The search spaces on disk: those that come with lrtune, and the user's own files."""

from pathlib import Path

from lrtune.core.errors import InputError
from lrtune.store.documents import find_document, read_document


def read_space(space: str | Path) -> tuple[str, str]:
    """Name and TOML text of a space: one that comes with lrtune, or a file.

    Raises:
        InputError: there is neither.
    """
    path = find_document(space, folder := _spaces_folder())
    if path is None:
        names = ", ".join(space_names())
        raise InputError(f"`space` must be a TOML file or one of {names}, but got {str(space)!r}.")
    return str(space if path.parent == folder else path), read_document(path)


def space_names() -> list[str]:
    """The spaces that come with lrtune."""
    return sorted(path.stem for path in _spaces_folder().glob("*.toml"))


def _spaces_folder() -> Path:
    """Inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"
