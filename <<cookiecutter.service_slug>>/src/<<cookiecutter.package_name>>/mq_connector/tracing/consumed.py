"""Spans of the messages that one consumer handles, and of what its handler publishes meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer

from ..connection import Connection
from ..consumer.opened import Delivery, Message, Observer, OpenedChannel
from ..consumer.opened.lines import SHORT
from ..consumer.outbox import Outbox
from ..consumer.workers import Workers
from ..consumer.workers.workers import AWAITED
from ..fork import Process
from ..payload.request import request_id, trace_of
from . import spans

if TYPE_CHECKING:
    from ..consumer import ConsumerThread
    from ..consumer.workers.busy import Busy

_TRACEPARENT = "traceparent"
#: How it begins what has become of a message whose handling has failed.
_FAILED = ("dead-lettered", "failed")


#: By a class of deliveries, one like it whose objects have a place for their span as well.
_with_span: dict[Any, type[Delivery]] = {}


def _span_of(delivery: Delivery | None) -> Span | None:
    return getattr(delivery, "span", None)


class Consumed:
    """An `mq_connector.consumer.opened.observer.Observer` of one consumer, from its start on.

    :param consumer: hasn't started yet
    :param observer: who has watched it so far, and goes on
    """

    def __init__(self, consumer: ConsumerThread, tracer: Tracer) -> None:
        self._consumer = consumer
        self._observer: Observer | None = consumer.observer
        self._tracer = tracer
        self._process = Process()
        #: Of the broker, as far as it is known.
        self._server: spans.Attributes = {}
        # What there was in the places of ours.
        self._publish: Callable[..., None]
        self._handle: Callable[[Delivery], str]
        self._raised: Callable[[Delivery, Exception], str]
        self._was_away: Callable[[Busy, Delivery, float], None]

    # ---- mq_connector.consumer.opened.observer.Observer

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""
        before = self._observer
        outbox = Outbox(connection) if before is None else before.outbox(connection)
        self._publish = outbox.publish
        outbox.publish = self.publish  # type: ignore[method-assign]
        return outbox

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""
        if self._observer is not None:
            self._observer.begin(workers)
        self._handle, self._raised = workers.handle, workers.settling.raised
        self._was_away = workers.was_away
        workers.handle = self.handle  # type: ignore[method-assign]
        workers.settling.raised = self.raised  # type: ignore[method-assign]
        workers.was_away = self.was_away  # type: ignore[method-assign]

    @property
    def note(self) -> Callable[[float], object] | None:
        """What whoever has watched so far wants to be told."""
        return None if self._observer is None else self._observer.note

    def sort_in(self) -> None:
        """Let whoever has watched so far sort in what was noted."""
        if self._observer is not None:
            self._observer.sort_in()

    def on_opened(self, opened: OpenedChannel) -> None:
        """There is another channel."""
        if self._observer is not None:
            self._observer.on_opened(opened)
        kind = opened.delivery_type
        if kind not in _with_span:
            _with_span[kind] = type("TracedDelivery", (kind,), {"__slots__": ("span",)})
        opened.delivery_type = _with_span[kind]
        link = self._consumer.connection.link
        if link is not None:
            at: Any = link.amqp.params
            self._server = {"server.address": at.host, "server.port": at.port}

    # ---- in the place of methods of the workers

    def handle(self, delivery: Delivery) -> str:
        """As `Workers.handle`, within the span of the message."""
        try:
            span = self._begin(delivery)
        except Exception as error:
            span = spans.none(error)
        delivery.span = span  # type: ignore[attr-defined]  # what `_with_span` has
        token = contexts.attach(trace.set_span_in_context(span))
        try:
            outcome = self._handle(delivery)
        except BaseException as error:
            if not self._process.forked:
                spans.fail(span, error)
                spans.end(span)
            raise
        finally:
            contexts.detach(token)
        if outcome is not AWAITED and not self._process.forked:
            if not outcome.startswith("handled"):
                spans.note(span, outcome)
            spans.end(span)
        return outcome

    def raised(self, delivery: Delivery, error: Exception) -> str:
        """As `mq_connector.consumer.workers.settling.Settling.raised`."""
        outcome = self._raised(delivery, error)
        span = _span_of(delivery)
        if span is not None and not self._process.forked:
            if outcome.startswith(_FAILED):
                spans.fail(span, error)
            spans.note(span, outcome)
        return outcome

    def was_away(self, busy: Busy, delivery: Delivery, took: float) -> None:
        """As `mq_connector.consumer.workers.workers.Workers.was_away`; `took` in seconds."""
        span = _span_of(delivery)
        if span is not None:
            spans.end(span)
        self._was_away(busy, delivery, took)

    # ---- in the place of a method of the outbox

    def publish(
        self, opened: OpenedChannel, message: Message, delivery: Delivery | None = None
    ) -> None:
        """As `Outbox.publish`, within a span whose place the message's headers tell."""
        exchange, routing_key, _, properties, _ = message
        found = spans.attributes("publish", spans.SEND, exchange, routing_key) | self._server
        if properties is not None:
            spans.identify(found, properties.message_id, properties.correlation_id)
        # Queues for replies are too many for a name.
        name = f"publish {exchange}" if exchange else "publish"
        handled = _span_of(delivery)
        parent = None
        if handled is not None and not trace.get_current_span().get_span_context().is_valid:
            # Published by a thread of the handler's own.
            parent = trace.set_span_in_context(handled)
        with spans.sending(self._tracer, name, SpanKind.PRODUCER, found, parent):
            self._publish(opened, _marked(message, delivery), delivery)

    def _begin(self, delivery: Delivery) -> Span:
        method, properties, consumer = delivery.method, delivery.properties, self._consumer
        exchange, routing_key = method.exchange or "", method.routing_key or ""
        found = spans.attributes("process", spans.PROCESS, exchange, routing_key, consumer.queue)
        found["messaging.rabbitmq.message.delivery_tag"] = delivery.tag
        # Whose name is drawn anew by each process is nothing to sort by.
        target = exchange if consumer.is_private else consumer.queue
        span = self._tracer.start_span(
            f"process {target}".strip(),
            spans.context_in(trace_of(properties)),
            SpanKind.CONSUMER,
            found | self._server,
        )
        if span.is_recording():
            ids: spans.Attributes = {}
            spans.identify(
                ids, request_id(delivery.body, properties, SHORT), _conversation(properties)
            )
            span.set_attributes(ids)
        return span


def _conversation(properties: pika.BasicProperties) -> object:
    try:
        return properties.correlation_id
    except Exception:  # what a peer has sent as properties may be anything
        return None


def _marked(message: Message, delivery: Delivery | None) -> Message:
    """With the current span's place among its headers, unless its publisher has put one there."""
    headers = spans.headers_for()
    if not headers:
        return message
    properties = message.properties
    given = {} if properties is None else properties.headers or {}
    carried = {} if delivery is None else trace_of(delivery.properties)
    if given.get(_TRACEPARENT) not in (None, carried.get(_TRACEPARENT)):
        return message
    properties = pika.BasicProperties() if properties is None else copy.copy(properties)
    properties.headers = {**given, **headers}
    return message._replace(properties=properties)
