"""JSON text, read strictly by the standard library's C scanner and bounded in depth (RFC 8259)."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from json.scanner import make_scanner
from typing import Any, NoReturn

from ..errors import PayloadError

#: Characters of a message that an error may repeat: enough to find it, too few to flood a log.
EXCERPT = 40

#: Makes an opening bracket +1 and a closing one -1 (255, as a signed byte), for a running sum.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def excerpt(text: str | bytes) -> str:
    """The beginning of `text` for an error message: printable ASCII, one line, quoted."""
    return ascii(text[:EXCERPT])[:EXCERPT] + ("..." if len(text) > EXCERPT else "")


def _refuse(word: str) -> NoReturn:
    """Refuse `NaN` and `Infinity`: the standard library takes them, RFC 8259 has neither."""
    raise ValueError(f"{word} is not JSON")


def scanner(
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Callable[[str, int], tuple[Any, int]]:
    """Make a function that reads one value: `scan(text, start) -> (value, position behind it)`.

    It raises ValueError, or StopIteration where no value begins, and refuses blank space before the
    value and control characters in strings. It recurses once per level, so ask `is_deep` first.

    :param object_hook: called with each object; what it returns takes the object's place
    """
    settings: Any = json.JSONDecoder(object_hook=object_hook, parse_constant=_refuse)
    return make_scanner(settings)


scan = scanner()


def is_deep(text: str, max_depth: int) -> bool:
    """Whether JSON text has more than `max_depth` levels of arrays and objects.

    It takes linear time and no recursion. Brackets inside strings don't count. For text that isn't
    JSON the answer holds up to the first error, and the scanner gets no further than that.
    """
    if text.count("{") + (text.count("[") if "[" in text else 0) <= max_depth:
        return False
    # With the escaped characters gone, every quotation mark left begins or ends a string.
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    steps = outside.encode("utf-8", "replace").translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > max_depth


def load(text: str, max_depth: int) -> Any:
    """The value of one JSON text.

    :param max_depth: levels of arrays and objects allowed
    :raises PayloadError: not JSON, too deep, or an integer with more digits than Python converts
    """
    text = text.strip(" \t\n\r")
    if is_deep(text, max_depth):
        raise PayloadError(f"message is nested deeper than {max_depth} levels: send it flatter")
    try:
        value, position = scan(text, 0)
        if position == len(text):
            return value
    except StopIteration as error:
        position = error.value
    except json.JSONDecodeError as error:
        position = error.pos
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"message is not JSON: {str(error)[:100]}") from None
    where = f"at character {position} of {len(text)}"
    raise PayloadError(f"message is not JSON: {where} stands {excerpt(text[position:])}")
