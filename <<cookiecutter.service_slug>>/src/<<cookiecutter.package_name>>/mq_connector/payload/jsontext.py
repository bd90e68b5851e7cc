"""JSON text, read strictly by the standard library's C scanner and bounded in what it holds (RFC 8259)."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from json.scanner import make_scanner
from typing import Any, NoReturn

from ..errors import PayloadError

#: Characters of a message that an error may repeat: enough to find it, too few to flood a log.
EXCERPT = 40

#: Commas, colons and opening brackets that a body may have outside its strings. Each makes an object
#: or holds one, of about 50 bytes (a dict or a set: 200), so that a list of 250 000 numbers costs
#: 10 MiB and 250 000 lists 25 MiB. `MAX_SIZE` bytes full of them would cost eight times as much.
MAX_TOKENS = 250_000

#: Characters that are looked at in one step: so few that no step takes memory or keeps other threads.
_SLICE = 64 * 1024

#: Makes an opening bracket +1 and a closing one -1 (255, as a signed byte), for a running sum.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))

TOO_MANY = f"has more than {MAX_TOKENS} commas, colons and brackets: send it in parts, or as text"


def too_deep(max_depth: int) -> str:
    """Why a message is refused that has more levels than that."""
    return f"is nested deeper than {max_depth} levels: send it flatter"


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
    value and control characters in strings. It recurses once per level, so ask `excess` first.

    :param object_hook: called with each object; what it returns takes the object's place
    """
    settings: Any = json.JSONDecoder(object_hook=object_hook, parse_constant=_refuse)
    return make_scanner(settings)


scan = scanner()


def excess(text: str, max_depth: int) -> str | None:
    """What JSON text has too much of: more than `max_depth` levels, or more than `MAX_TOKENS`.

    It takes linear time and no recursion. What is inside strings doesn't count. For text that isn't
    JSON the answer holds up to the first error, and the scanner gets no further than that.

    :returns: the reason, to be put behind "message "; None if all is well
    """
    has_lists = "[" in text
    # A dict in a dict needs a key, if an empty one: four characters for each level.
    if not has_lists and len(text) <= 4 * max_depth:
        return None
    brackets = text.count("{") + (text.count("[") if has_lists else 0)
    if brackets <= max_depth and (
        len(text) <= MAX_TOKENS or brackets + text.count(",") + text.count(":") <= MAX_TOKENS
    ):
        return None
    if (
        "\\" in text
    ):  # With the escaped characters gone, each quotation mark begins or ends a string.
        text = text.replace("\\\\", "").replace('\\"', "")
    inside = False
    tokens = depth = 0
    for start in range(0, len(text), _SLICE):
        pieces = text[start : start + _SLICE].split('"')
        outside = "".join(pieces[inside::2])
        inside ^= len(pieces) % 2 == 0
        steps = outside.encode("utf-8", "replace").translate(_STEPS, _NO_BRACKETS)
        depths = list(accumulate(memoryview(steps).cast("b"), initial=depth))
        if max(depths) > max_depth:
            return too_deep(max_depth)
        depth = depths[-1]
        tokens += steps.count(1) + outside.count(",") + outside.count(":")
        if tokens > MAX_TOKENS:
            return TOO_MANY
    return None


def load(text: str, max_depth: int) -> Any:
    """The value of one JSON text.

    :param max_depth: levels of arrays and objects allowed
    :raises PayloadError: not JSON, too deep or too much, or an integer with more digits than Python
        converts
    """
    text = text.strip(" \t\n\r")
    if reason := excess(text, max_depth):
        raise PayloadError(f"message {reason}")
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
