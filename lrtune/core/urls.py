"""What may be shown of the URL of a database, of checkpoints or of a cluster.

A URL may hold a password under any name, and a malformed one in any place. So only what is known to
be none is shown: the scheme, the host, and the database or the path.
"""

import re
import shlex
from collections.abc import Iterable
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
_URL = re.compile(r"((?:[A-Za-z]\w*::)?[A-Za-z][\w+.-]*)://(.*)", re.DOTALL)
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]*)(?::\d+)?"
_PLACE = re.compile(rf"({_HOST}(?:/[^?#;&=%:]*)?)([?#;&=%].*)?", re.DOTALL)
_FILE = re.compile(r"(/[^?#;&]*)([?#;&].*)?", re.DOTALL)
_FILES = ("file", "sqlite", "sqlite+pysqlite")
"""Schemes of files, whose URLs have no account: a path follows `://`."""


def shown(url: str) -> str:
    """Returns what may be shown of a URL: `postgresql://***@host:5432/db?***`.

    Where it is not clear which part is the host, this is the scheme alone. A text that is no URL is
    shown where it is a name, a path or `host:port`.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return url if re.fullmatch(rf"{_HOST}|[^:@=?;&]*", url) else HIDDEN
    scheme, rest = match.groups()
    account, at, place = "", "", _FILE.fullmatch(rest) if scheme in _FILES else None
    if place is None:
        account, at, rest = rest.rpartition("@")
        place = _PLACE.fullmatch(rest)
    if place is None or re.search("[/?#]", account):
        return f"{scheme}://{HIDDEN}"
    more = f"{place[2][0]}{HIDDEN}" if place[2] else ""
    return f"{scheme}://{HIDDEN * bool(at)}{at}{place[1]}{more}"


def shown_in(text: str) -> str:
    """Returns a text with what may be shown of the URL in it.

    The URL is taken to go on to the end of the text, since a malformed one may hold blanks.
    """
    return _URL.sub(lambda match: shown(match[0]), text)


def shown_command(words: Iterable[str]) -> str:
    """Returns a command as it would be typed, with what may be shown of the URLs in it."""
    return shlex.join(map(shown_in, words))


def without(url: str, text: str) -> str:
    """Returns a text, such as the message of a driver, without what may not be shown of a URL."""
    words = {
        word
        for form in (url, unquote(url), unquote_plus(url))
        for word in re.split(r"[\W_]+", form)
        if word
    } - set(re.split(r"[\W_]+", shown(url)))
    hidden = "|".join(map(re.escape, sorted(words)))
    return re.sub(rf"(?<![^\W_])(?:{hidden})(?![^\W_])", HIDDEN, text) if hidden else text
