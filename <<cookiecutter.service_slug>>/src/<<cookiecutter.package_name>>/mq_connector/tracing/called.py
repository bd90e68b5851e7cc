"""Spans of what a service asks others and publishes, in a handler or anywhere else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import SpanKind, Tracer

from ..calling import Caller
from ..calling import message as messages
from ..consumer.workers.current import Current
from ..payload.request import message_ids
from . import spans

#: What goes along with what is sent outside of any span.
_carried = messages.trace_now


def _trace_now(now: Current | None) -> dict[str, str]:
    """The place of the current span, for the headers of what is sent within it."""
    return spans.headers_for() or _carried(now)


class Called:
    """Takes the place of what a caller does.

    :param caller: whose methods these are from now on
    """

    def __init__(self, caller: Caller, tracer: Tracer) -> None:
        self._tracer = tracer
        self._ask, self._ask_async = caller.ask, caller.ask_async
        self._publish, self._publish_async = caller.publish, caller.publish_async
        caller.ask, caller.ask_async = self.ask, self.ask_async  # type: ignore[method-assign]
        caller.publish = self.publish  # type: ignore[method-assign]
        caller.publish_async = self.publish_async  # type: ignore[method-assign]
        messages.trace_now = _trace_now

    def ask(
        self, queue: str, request: Mapping[Any, Any], vhost: str | None, timeout: float | None
    ) -> dict[Any, Any]:
        """As `Caller.ask`."""
        with self._asking(queue, request) as named:
            return self._ask(queue, named, vhost, timeout)

    async def ask_async(
        self, queue: str, request: Mapping[Any, Any], vhost: str | None, timeout: float | None
    ) -> dict[Any, Any]:
        """As `Caller.ask_async`."""
        with self._asking(queue, request) as named:
            return await self._ask_async(queue, named, vhost, timeout)

    def publish(
        self, exchange: str, routing_key: str, message: Mapping[Any, Any] | bytes, timeout: float
    ) -> None:
        """As `Caller.publish`."""
        with self._publishing(exchange, routing_key, message) as named:
            self._publish(exchange, routing_key, named, timeout)

    async def publish_async(
        self, exchange: str, routing_key: str, message: Mapping[Any, Any] | bytes, timeout: float
    ) -> None:
        """As `Caller.publish_async`."""
        with self._publishing(exchange, routing_key, message) as named:
            await self._publish_async(exchange, routing_key, named, timeout)

    @contextmanager
    def _asking(self, queue: str, request: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
        found, named = _about("ask", "", queue, request)
        # A client's, as it goes on when the reply is there.
        with spans.sending(self._tracer, f"ask {queue}", SpanKind.CLIENT, found):
            yield named

    @contextmanager
    def _publishing(self, exchange: str, routing_key: str, body: Any) -> Iterator[Any]:
        found, named = _about("publish", exchange, routing_key, body)
        name = f"publish {exchange or routing_key}"
        with spans.sending(self._tracer, name, SpanKind.PRODUCER, found):
            yield named


def _about(
    operation: str, exchange: str, routing_key: str, body: Any
) -> tuple[spans.Attributes, Any]:
    """Attributes of what is sent, and itself: with an id, if it can have one."""
    found = spans.attributes(operation, spans.SEND, exchange, routing_key)
    message_id = None
    if isinstance(body, Mapping):
        ids = message_ids(body)
        message_id = ids[0] if ids else uuid.uuid4().hex
        body = body if ids else {**body, "message_id": message_id}
    spans.identify(found, message_id, messages.origin().correlation_id)
    return found, body
