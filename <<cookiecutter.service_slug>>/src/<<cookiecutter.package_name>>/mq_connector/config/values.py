"""Values from outside: what they may be, and how a message shows one that is wrong."""

from __future__ import annotations

import re
from typing import Any

from ..errors import ConfigurationError

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def shown(value: object) -> str:
    """How a message shows a value that is wrong.

    A text that is more than a short word may be a password in the wrong place: it isn't repeated.
    """
    if isinstance(value, str) and not re.fullmatch(r"[\w.+-]{0,16}", value):
        return f"a text of {len(value)} characters"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number without bounds"  # Python refuses to write one of more than 4300 digits
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def whole(value: object, least: int, most: int) -> int | None:
    """The whole number that a value is, or that a text says; None if it isn't one within these bounds."""
    if isinstance(value, str):
        if not re.fullmatch("[0-9]{1,10}", value):
            return None
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least <= value <= most else None


def is_on(variable: str, text: str) -> bool:
    """Whether the text of a variable switches something on.

    :raises ConfigurationError: it says neither yes nor no
    """
    word = text.lower()
    if word not in _TRUE + _FALSE:
        raise ConfigurationError(f"{variable} is {shown(text)}; it must be true or false")
    return word in _TRUE


def flaw(value: Any) -> str:
    """Why a value can't be sent to a broker as a text, without repeating it; empty if it can."""
    if not isinstance(value, str):
        return f"is no text but a {type(value).__name__}; put it in quotes"
    if "\0" in value:
        return "holds the character NUL; take it out"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "holds half of a surrogate pair, which UTF-8 can't carry; write it as UTF-8"
    return ""
