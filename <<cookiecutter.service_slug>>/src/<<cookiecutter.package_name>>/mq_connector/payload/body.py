"""Bodies of messages: dicts as Neon's peers encode them, decoded without running what they sent.

A peer sends `base64(json(str(dict)))`: a Python literal, inside a JSON string, inside base64. The
incumbents run that literal as code; here it is only read. Other programs may send a JSON object,
with or without base64, and get their answers the same way.
"""

from __future__ import annotations

import enum
import json
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from contextvars import ContextVar
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any, NamedTuple

from ..errors import PayloadError
from . import jsontext, literal

#: The longest body that is decoded, in bytes: two minutes of speech (16 kHz, 16 bits), in base64 as
#: messages carry it. Larger things belong beside the broker, not in it.
MAX_SIZE = 8 * 1024 * 1024

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
    if body.startswith(b"In"):  # Base64 of a quotation mark and a bracket.
        return Form.LITERAL
    beginning = body[:64].lstrip()
    if beginning.startswith(b"{"):
        return Form.JSON
    try:
        if a2b_base64(beginning[: len(beginning) // 4 * 4]).lstrip().startswith(b"{"):
            return Form.JSON_BASE64
    except Base64Error:
        pass
    return Form.LITERAL


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
    if max_size is None:
        max_size = bounds.get().size
    if max_depth is None:
        max_depth = bounds.get().depth
    if len(body) > max_size:
        raise PayloadError(
            f"message has {len(body)} bytes where {max_size} are allowed: send it in parts"
        )
    try:
        raw = body if body.lstrip().startswith(b"{") else a2b_base64(body)
        try:
            text = str(raw, "utf-8")
            if text.startswith('"'):
                content, end = jsontext.scan(text, 0)
                if end == len(text):
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


def encode(data: Mapping[Any, Any], form: Form = Form.LITERAL) -> bytes:
    """The body for a dict. In the literal form it is, byte for byte, what the incumbents send.

    What is no literal is not looked for in the literal form, as that would cost as much as the
    encoding itself. So peers can't read it if the dict contains, at any depth, other objects than
    `literal.parse` returns (a datetime, a Decimal, an OrderedDict), or the numbers nan and inf, or
    itself.

    :raises PayloadError: nested too deep for Python, an integer with more digits than Python
        converts, or, in the JSON forms, a key or value that JSON hasn't, such as bytes, tuples and
        sets
    """
    try:
        if type(data) is not dict:
            data = dict(data)
        if form is Form.LITERAL:
            return b2a_base64(encode_basestring_ascii(str(data)).encode(), newline=False)
        _refuse_types(data, "")
        text = json.dumps(data).encode()
    except PayloadError:
        raise
    except RecursionError:
        raise PayloadError(
            "message can't be encoded: it is nested too deep, or contains itself"
        ) from None
    except ValueError as error:
        raise PayloadError(f"message can't be encoded: {str(error)[:100]}") from None
    return b2a_base64(text, newline=False) if form is Form.JSON_BASE64 else text


def _refuse_types(value: Any, path: str) -> None:
    """Refuse what would reach a JSON peer as something else, or not at all.

    :param path: where the value stands, such as `context.users[2]`
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise PayloadError(
                    f"message can't be JSON: key {ascii(key)[:40]} in {_short(path)} is a "
                    f"{type(key).__name__}, only str can be one"
                )
            _refuse_types(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_types(item, f"{path}[{index}]")
    elif not (
        value is None
        or isinstance(value, (str, int))
        or (isinstance(value, float) and isfinite(value))
    ):
        what = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
        raise PayloadError(
            f"message can't be JSON: key {_short(path)} holds {what}, "
            "convert it to str, int, float, list or dict"
        )


def _short(path: str) -> str:
    return ascii(path)[:40] if path else "the dict"
