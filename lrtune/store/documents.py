"""The files of search spaces and recipes: those that come with lrtune, and the user's own."""

from contextlib import suppress
from pathlib import Path

from lrtune.core.documents import MOST_BYTES
from lrtune.core.errors import InputError


def find_document(document: str | Path, folder: Path) -> Path | None:
    """Returns the file of a document; `None` if there is none.

    Args:
        document: the name of one that comes with lrtune, or the path of a file.
        folder: it holds those that come with lrtune.
    """
    for path in (folder / f"{document}.toml", Path(document)):
        with suppress(OSError):  # a name may be too long, or a folder closed
            if path.is_file():
                return path
    return None


def read_document(path: Path) -> str:
    """Returns the text of a document.

    Raises:
        InputError: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path}: must have at most {MOST_BYTES} bytes, but has more.")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}.") from None
