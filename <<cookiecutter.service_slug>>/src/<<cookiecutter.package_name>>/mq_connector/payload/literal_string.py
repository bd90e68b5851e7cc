"""String and bytes literals of Python: where they end, and what their escapes mean."""

from __future__ import annotations

import re

from ..errors import PayloadError
from .jsontext import excerpt

_BEGINNING = re.compile(r"""([bBrRuU]{0,2})('''|\"""|'|")""")

#: All prefixes that don't stand for code, in lower case.
_PREFIXES = frozenset(("", "b", "r", "u", "br", "rb"))

_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|N\{([^}]*)\}|(.))",
    re.DOTALL,
)
_BYTES_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)

_SIMPLE = {
    "\n": "",  # A continued line.
    "\\": "\\",
    "'": "'",
    '"': '"',
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}


def string_at(text: str, start: int) -> tuple[str | bytes, int]:
    """The value of the string or bytes literal that begins at `start`, and the position behind it.

    :raises PayloadError: no end, a prefix that Python doesn't have, or a wrong escape
    """
    beginning = _BEGINNING.match(text, start)
    if beginning is None:
        raise _error(text, start)
    prefix, marks = beginning[1].lower(), beginning[2]
    if prefix not in _PREFIXES:
        raise _error(text, start)
    first = searched = beginning.end()
    while True:
        end = text.find(marks, searched)
        if end < 0:
            raise _error(text, start)
        piece = text[searched:end]
        if (len(piece) - len(piece.rstrip("\\"))) % 2 == 0:
            break
        searched = end + 1  # Behind an odd number of backslashes, a mark is part of the string.
    body = text[first:end]
    if len(marks) == 1 and "\n" in body.replace("\\\\", "").replace("\\\n", ""):
        raise _error(text, start)
    if "b" in prefix and not body.isascii():
        raise _error(text, start)
    try:
        if "r" not in prefix and "\\" in body:
            body = (
                _BYTES_ESCAPE.sub(_bytes_escape, body)
                if "b" in prefix
                else _ESCAPE.sub(_escape, body)
            )
    except (ValueError, LookupError):
        raise _error(text, start) from None
    return body.encode("latin-1") if "b" in prefix else body, end + len(marks)


def _error(text: str, start: int) -> PayloadError:
    return PayloadError(
        f"message has a broken string at character {start}: {excerpt(text[start:])}"
    )


def _escape(match: re.Match[str]) -> str:
    octal, two, four, eight, name, other = match.groups()
    if other is not None:
        if other in "xuUN":
            raise ValueError(match[0])  # Digits or name are missing.
        return _SIMPLE.get(other, match[0])
    if octal is not None:
        return chr(int(octal, 8))
    if name is not None:
        return _named(name)
    return chr(int(two or four or eight, 16))


def _bytes_escape(match: re.Match[str]) -> str:
    octal, two, other = match.groups()
    if other is not None:
        if other == "x":
            raise ValueError(match[0])
        return _SIMPLE.get(other, match[0])
    return chr(int(octal, 8) & 0xFF if octal is not None else int(two, 16))


def _named(name: str) -> str:
    """The character with a name or alias of the Unicode standard."""
    import unicodedata  # A megabyte of tables that no message needs but one made by hand.

    character = unicodedata.lookup(name)
    if len(character) != 1:
        raise ValueError(name)  # A sequence of characters, which has a name but no escape.
    return character
