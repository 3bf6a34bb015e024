"""Text that can be written to any file and terminal, and is read there as it is meant."""

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that are not visible: control characters, such as those that colour a
terminal; marks, such as those that turn the direction of writing; surrogates, which stand for bytes
that are not UTF-8; and separators of lines."""
_KEPT = "\n\t\u200c\u200d"
"""The joiners are needed to write Persian, and some emoji."""


def printable(text: str) -> str:
    r"""Returns a text with its characters that are not visible escaped: `\x1b`, `\u202e`, `\udcff`.

    Ends of lines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _HIDDEN and character not in _KEPT
        else character
        for character in text
    )


def is_name(value: object) -> bool:
    """Returns whether a value is a text that can name something.

    It has one line, which neither begins nor ends with a blank, and no hidden characters.
    """
    return (
        isinstance(value, str)
        and value == value.strip() != ""
        and value == printable(value)
        and not {"\n", "\t"} & set(value)
    )
