"""TOML documents that users write: search spaces and recipes."""

import re
import tomllib
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from lrtune.core.errors import InputError, quoted
from lrtune.core.options import LARGEST

MOST_BYTES = 2**15
"""The time to parse a document may grow with the square of its size."""
MOST_LEVELS = 8
_NUMBER = f"a number must lie between -{LARGEST} and {LARGEST}"
_NESTED = f"tables and lists must not be nested in more than {MOST_LEVELS} levels."


def parse_document(text: str, source: str) -> dict[str, Any]:
    """Returns the values of a TOML document, all of whose numbers are finite.

    Args:
        text: the document, of at most `MOST_BYTES`.
        source: file name, for messages.

    Raises:
        InputError: the document is not valid TOML, or it is nested too deeply, or its numbers are
            too large; every value that is wrong is listed with its key.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: is not valid TOML: {error}.") from None
    except RecursionError:
        raise InputError(f"{source}: {_NESTED}") from None
    except ValueError:  # Python does not read integers of more than 4300 digits
        line = next(line for line in text.splitlines() if re.search(r"[\d_]{4300}", line))
        key = line.partition("=")[0].strip()[:40]
        raise InputError(f"{source}: {key}: {_NUMBER}, but got a longer one.") from None
    if problems := [f"{source}: {problem}" for problem in _problems((), document)]:
        raise InputError(problems)
    return document


def _problems(keys: tuple[str, ...], value: object, levels: int = 0) -> Iterator[str]:
    """Yields what is wrong with the numbers and the depth of a value; of a list, the first fault.

    Args:
        keys: of the tables that it is in, and its own.
        value: of the document.
        levels: tables and lists that it is in.
    """
    if isinstance(value, dict | list) and levels >= MOST_LEVELS:
        yield f"{'.'.join(keys)}: {_NESTED}"
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _problems((*keys, key), entry, levels + 1)
    elif isinstance(value, list):
        found = chain.from_iterable(_problems(keys, entry, levels + 1) for entry in value)
        yield from islice(found, 1)
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        yield f"{'.'.join(keys)}: {_NUMBER}, but got {quoted(value)}."
