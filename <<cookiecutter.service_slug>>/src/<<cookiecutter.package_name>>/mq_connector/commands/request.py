"""Sends one request to the service and prints the reply as JSON."""

from __future__ import annotations

import json
import secrets
import sys
from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, Any

from .. import health
from ..errors import ConfigurationError, RequestTimeout, printable
from .broker import client, unheard, why_not
from .terminal import say

if TYPE_CHECKING:
    from ..connector import MQConnector

#: With the quotes that a shell wants.
_OBJECT = """must be a JSON object, such as '{"text": "hi"}'"""


def ask(service: MQConnector, text: str, timeout: float) -> int:
    """Ask the first of the service's consumers.

    :param text: the request, a JSON object
    :param timeout: seconds
    :returns: exit code: 0, or 1 where the reply says that the request failed
    :raises ConfigurationError: the request isn't one
    :raises MQError: there is no reply
    """
    data = _parse(text)
    if not service.consumers:
        raise ConfigurationError("the service has no consumers, so there is nobody to ask")
    queue = next(iter(service.consumers.values())).queue
    with client(service, f"{service.service_name}.reply.{secrets.token_hex(8)}") as asking:
        try:
            reply = asking.request(queue, data, timeout)
        except RequestTimeout as error:
            # An alarm that was told to this connection is in the error already.
            why = "" if asking.connection.blocked else why_not(service) or _busy(service, queue)
            raise RequestTimeout(f"{error}{why}") from None
    say(_line(_as_json(reply)))
    return int(_is_error(reply))


def _busy(service: MQConnector, queue: str) -> str:
    """What keeps a service from answering, to be put behind what went wrong."""
    well, reason = health.check(service.service_name)
    if well:  # it runs here
        return reason.removeprefix(health.CONSUMING)
    return "; nobody consumes it: start the service" if unheard(service, queue) else ""


def _parse(text: str) -> dict[str, Any]:
    """:raises ConfigurationError: it is no JSON object, or has a number that no float holds"""
    with suppress(UnicodeError):  # Bytes of another encoding stay what they are.
        # What the locale's encoding hasn't, such as ASCII, arrives as halves of pairs.
        text = text.encode(errors="surrogateescape").decode()
    try:
        data = json.loads(text, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        hint = f"; it {_OBJECT}" if isinstance(error, json.JSONDecodeError) else ""
        reason = f"{printable(str(error))}{hint}"
        raise ConfigurationError(f"the request isn't valid JSON: {reason}") from None
    if not isinstance(data, dict):
        raise ConfigurationError(f"the request {_OBJECT}")
    return data


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _refuse(word: str) -> float:
    """Refuse `NaN` and `Infinity`: the standard library takes them, RFC 8259 has neither."""
    raise ValueError(f"there is no {word} in JSON")


def _is_error(reply: dict[Any, Any]) -> bool:
    """Whether it is what Neon's services answer to a request that they couldn't handle; a bare
    ``success: False`` may be an answer."""
    return reply.get("success") is False and ("error" in reply or "code" in reply)


def _as_json(value: Any) -> Any:
    """What Neon's format has and JSON hasn't, as the nearest that JSON has: keys, bytes and numbers
    without end as text."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(_as_json(key)): _as_json(each)
            for key, each in value.items()
        }
    if isinstance(value, (set, frozenset)):
        return sorted((_as_json(each) for each in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return _whole(value)
    return value if isinstance(value, float) and isfinite(value) else repr(value)


def _whole(value: int) -> int | str:
    """A number that has more digits than Python writes is written in hexadecimal ones."""
    try:
        str(value)
    except ValueError:
        return hex(value)
    return value


def _line(value: object) -> str:
    """One line of JSON, with an escape for each character that isn't safe or can't be shown."""
    text = json.dumps(value, ensure_ascii=False)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    def shown(character: str) -> str:
        if character.isprintable():
            with suppress(UnicodeEncodeError):
                character.encode(encoding)
                return character
        return json.dumps(character)[1:-1]

    return "".join(map(shown, text))
