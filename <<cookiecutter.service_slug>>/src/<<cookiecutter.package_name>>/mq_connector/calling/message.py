"""What goes out: with the id and the trace of the request in the course of which it does."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pika

from .. import payload
from ..channels.origin import Origin
from ..consumer.workers.current import Current, current
from ..errors import PayloadError, RequestTimeout
from ..payload.request import message_ids, request_id, trace_of

#: Seconds that a reply is waited for where nothing says how long.
DEFAULT = 30.0
#: Bytes that a short string of AMQP's may have.
_SHORT = 255


def time_for(queue: str, timeout: float | None) -> float:
    """Seconds to wait for a reply: what is wished, but no longer than whoever waits for ours.

    :raises ValueError: the time-out is none
    :raises RequestTimeout: there is no time left
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"timeout is {timeout!r}: it must be a number of seconds above 0")
    now = current()
    left = None if now is None else now.time_left
    if left is None:
        return DEFAULT if timeout is None else timeout
    if left <= 0:
        raise RequestTimeout(f"{queue!r} isn't asked: the client of this request waits no more")
    return left if timeout is None else min(left, timeout)


def _trace_now(now: Current | None) -> dict[str, str]:
    return {} if now is None else trace_of(now.delivery.properties)


#: Headers of the trace for what is sent now, in the course of a request if there is one: the request's own;
#: `mq_connector.tracing` has others.
trace_now: Callable[[Current | None], dict[str, str]] = _trace_now


def origin() -> Origin:
    """Of what is sent now."""
    now = current()
    return Origin(None if now is None else _correlation_id(now), trace_now(now))


def _correlation_id(now: Current) -> str | None:
    properties = now.delivery.properties
    try:
        found = properties.correlation_id or request_id(now.delivery.body, properties)
        return found if isinstance(found, str) and len(found.encode()) <= _SHORT else None
    except Exception:  # what a peer has sent may be anything
        return None


def question(request: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """:raises PayloadError: it is no request"""
    if not isinstance(request, Mapping):
        raise PayloadError(f"ask() sends a dict, not a {type(request).__name__}")
    return request


class Publication(NamedTuple):
    """What is to be published."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties

    @classmethod
    def of(cls, exchange: str, routing_key: str, message: Mapping[Any, Any] | bytes) -> Publication:
        """Encode a message.

        :raises PayloadError: it can't be encoded
        """
        properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
        origin().mark(properties)
        if isinstance(message, bytes):
            return cls(exchange, routing_key, message, properties)
        if not isinstance(message, Mapping):
            raise PayloadError(f"publish() sends a dict or bytes, not a {type(message).__name__}")
        ids = message_ids(message)
        properties.message_id = ids[0] if ids and len(ids[0].encode()) <= _SHORT else None
        if not ids:
            properties.message_id = uuid.uuid4().hex
            message = {**message, "message_id": properties.message_id}
        return cls(exchange, routing_key, payload.encode(message), properties)
