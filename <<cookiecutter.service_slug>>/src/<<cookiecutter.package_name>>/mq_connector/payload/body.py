"""Bodies of messages: what Neon's peers have encoded, read without running what they sent.

A peer sends `base64(json(str(dict)))`: a Python literal, inside a JSON string, inside base64. Neon's
own connector runs that literal as code; here it is only read. Other programs may send a JSON object,
with or without base64, and get their answers the same way.
"""

from __future__ import annotations

import enum
import json
from binascii import Error as Base64Error
from binascii import a2b_base64
from contextvars import ContextVar
from typing import Any, NamedTuple

from ..errors import PayloadError
from . import jsontext, literal

#: The longest body that is decoded, in bytes: a minute of speech (16 kHz, 16 bits), in base64 as
#: messages carry it. Larger things belong beside the broker, not in it. The worst body of
#: this size that we could make takes 62 MiB and a second to decode, and 132 MiB where all of it is sent
#: back; each worker may have one in hand, in a container of 256 MiB.
MAX_SIZE = 4 * 1024 * 1024

#: Levels of brackets that are decoded. Python's own parser gives up at 200, and messages need about
#: five.
MAX_DEPTH = 100


class Bounds(NamedTuple):
    """What `decode` accepts where its caller doesn't say."""

    #: Bytes that a body may have.
    size: int = MAX_SIZE
    #: Levels of brackets in it.
    depth: int = MAX_DEPTH


_DEFAULT = Bounds()
#: Of the running thread: those of a consumer set them to what its operator allows (``MQ_MAX_BODY``,
#: ``MQ_MAX_DEPTH``), so that two consumers of one process may have different ones.
bounds: ContextVar[Bounds] = ContextVar("bounds", default=_DEFAULT)


#: How nearly all bodies begin: base64 of a quotation mark and a bracket.
_LITERAL = b"In"


class Form(enum.Enum):
    """How a body is written. An answer goes out in the form of its request."""

    #: Base64 of a JSON string with a Python literal in it: what every Neon peer sends and expects.
    LITERAL = "literal"
    #: Base64 of a JSON object.
    JSON_BASE64 = "json-base64"
    #: A JSON object as it is.
    JSON = "json"


def form_of(body: bytes) -> Form:
    """Guess a body's form from its first bytes, without checking the rest.

    :returns: LITERAL also for what is in no form at all, as most peers will understand that
    """
    if body.startswith(_LITERAL):
        return Form.LITERAL
    beginning = body[:64].lstrip()
    # A list or a string is no request, but who sends one in JSON is to be told in JSON.
    if _begins_json(beginning, '{["'):
        return Form.JSON
    try:
        if _begins_json(a2b_base64(beginning[: len(beginning) // 4 * 4]), "{["):
            return Form.JSON_BASE64
    except Base64Error:
        pass
    return Form.LITERAL


def _begins_json(raw: bytes, openings: str) -> bool:
    """Whether one of these characters is the first, in UTF-8, UTF-16 or UTF-32, with a BOM or without."""
    if raw[:1].isascii() and raw[:1] != b"\0":
        return raw.lstrip()[:1].decode("ascii", "replace") in tuple(openings)
    text = raw[:64].decode(json.detect_encoding(raw[:64]), "ignore")
    return text.lstrip("\ufeff \t\n\r").startswith(tuple(openings))


def decode(
    body: bytes, max_size: int | None = None, max_depth: int | None = None
) -> dict[Any, Any]:
    """The dict in a message's body, whatever its form. Nothing in the body is ever executed.

    For the literal form, the result is that of
    `ast.literal_eval(json.loads(base64.b64decode(body)))`.

    :param max_size: bytes that a body may have; by default, as `bounds` say
    :param max_depth: levels of brackets that it may have; the same
    :raises PayloadError: anything wrong with the body; no other exception leaves this function
    """
    if max_size is None or max_depth is None:
        size, depth = bounds.get()
        max_size = size if max_size is None else max_size
        max_depth = depth if max_depth is None else max_depth
    if len(body) > max_size:
        raise PayloadError(
            f"message has {len(body)} bytes where {max_size} are allowed: send it in parts"
        )
    try:
        if body.startswith(_LITERAL):
            raw = a2b_base64(body)
        else:
            raw = body if body.startswith(b"{") or _begins_json(body, "{") else a2b_base64(body)
        try:
            text = str(raw, "utf-8")
            if text.startswith('"'):
                content, end = jsontext.scan(text, 0)
                if end == len(text):
                    del raw, text  # Each is as long as the body, or four times as long.
                    return literal.parse(content, max_depth)
        except PayloadError:
            raise
        except ValueError:
            pass
        return _decode_json(raw, max_depth)
    except Base64Error as error:
        raise PayloadError(
            f"message is not base64 ({error}): it begins with {jsontext.excerpt(body)}"
        ) from None
    except (MemoryError, RecursionError):
        raise PayloadError("message can't be decoded: too little memory or stack is left") from None


def _decode_json(raw: bytes, max_depth: int) -> dict[Any, Any]:
    """The dict in a JSON object, or in a string that isn't UTF-8 or has blank space around it."""
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass")
    except UnicodeDecodeError as error:
        raise PayloadError(
            f"message is not text ({error.reason}): it begins with {jsontext.excerpt(raw)}"
        ) from None
    value = jsontext.load(text, max_depth)
    if isinstance(value, str):
        return literal.parse(value, max_depth)
    if not isinstance(value, dict):
        raise PayloadError(f"message holds a {type(value).__name__} where a dict is expected")
    return value
