"""Try a handler without a broker::

    harness = Harness(MyService(config={}).handle_api_input)
    outcome = harness.send({"text": "hi"})
    assert outcome.reply["echo"] == {"text": "hi"}
    assert outcome.settled == "ack"

The callback runs in the calling thread, wrapped as in the real consumer: a return acknowledges, an
exception dead-letters the message and answers with an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pika
from pika.exceptions import ChannelWrongStateError
from pika.spec import Basic, Queue

from . import payload
from .calling.canned import Answer, CannedCaller, Question
from .calling.message import Publication
from .config import Limits
from .connection.scratch import Result
from .consumer.channel.apart import Got
from .consumer.channel.instead import CONFIRMS, GET_UNSETTLED, refuse_the_rest
from .consumer.opened import Delivery
from .consumer.opened.current import in_hand
from .consumer.suspicion import Suspicion
from .consumer.workers import Callback, Workers
from .errors import NotInCallback

#: The reply queue that the harness names in its requests.
REPLY_QUEUE = "harness.reply"


@dataclass(frozen=True)
class Publish:
    """A message that the handler has published."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties | None

    @property
    def data(self) -> dict[Any, Any]:
        """The decoded body; raises `PayloadError` where it isn't a payload."""
        return payload.decode(self.body)


@dataclass
class Outcome:
    """What came of one message."""

    #: ``ack``, ``dead-letter`` or ``requeue``.
    settled: str = ""
    published: list[Publish] = field(default_factory=list)
    #: What the handler has asked other services, in order.
    asked: list[Question] = field(default_factory=list)
    #: Queues and exchanges that the handler declared, by name.
    declared: list[str] = field(default_factory=list)
    #: Where the request asked its reply to go.
    reply_queue: str | None = None
    #: What the handler raised.
    error: Exception | None = None

    def settle(self, how: str) -> None:
        """What was settled stays so."""
        self.settled = self.settled or how

    @property
    def replies(self) -> list[dict[Any, Any]]:
        """Decoded bodies of what went to the request's reply queue, in order."""
        return [each.data for each in self.published if each.routing_key == self.reply_queue]

    @property
    def reply(self) -> dict[Any, Any]:
        """The only reply; an AssertionError where there is none or more than one."""
        replies = self.replies
        assert len(replies) == 1, f"expected one reply, got {len(replies)}"
        return replies[0]


class Harness:
    """Hands messages to a callback, one at a time.

    :param callback: such as a service's ``handle_api_input``
    :param answers: what the services say that the handler asks, by their queues: a reply, a function that makes
        one of the request, or an exception that `MQConnector.ask` raises. Another queue isn't there
    """

    def __init__(self, callback: Callback, answers: Mapping[str, Answer] | None = None) -> None:
        self._callback = callback
        self._answers = answers or {}
        self._service: Any = getattr(callback, "__self__", None)
        self._sent = 0

    def send(
        self, request: Mapping[Any, Any], form: payload.Form = payload.Form.LITERAL
    ) -> Outcome:
        """Send a request as a client would: with a message id and a reply queue, unless it has its own.

        Pass ``routing_key=None`` in the request for a client that wants no reply.
        """
        message = {"message_id": f"message-{self._sent + 1}", "routing_key": REPLY_QUEUE, **request}
        outcome = self.send_body(payload.encode(message, form))
        outcome.reply_queue = message["routing_key"]
        return outcome

    def publish(self, exchange: str, routing_key: str, message: Mapping[Any, Any]) -> Outcome:
        """Publish a message to an exchange that the callback's consumer hears.

        :raises AssertionError: it doesn't
        """
        consumers = getattr(self._service, "consumers", {}).values()
        ours = [each for each in consumers if each.callback_func == self._callback]
        heard = [
            each
            for each in ours
            if each.subscription and each.subscription.takes(each.queue, exchange, routing_key)
        ]
        assert heard or not ours, f"no consumer hears {routing_key!r} of exchange {exchange!r}"
        sent = Publication.of(exchange, routing_key, message)
        return self.send_body(sent.body, sent.properties, exchange, routing_key)

    def send_body(
        self,
        body: bytes,
        properties: pika.BasicProperties | None = None,
        exchange: str = "",
        routing_key: str = "harness",
    ) -> Outcome:
        """Send a raw body.

        :param exchange: that it was published to
        :param routing_key: with which it was
        """
        self._sent += 1
        outcome = Outcome(reply_queue=properties.reply_to if properties else None)

        def remember(error: Exception) -> None:
            outcome.error = error

        method = Basic.Deliver("harness", self._sent, False, exchange, routing_key)
        opened: Any = _RecordingOpened(outcome)

        def channel_of(_: Delivery) -> Any:
            return _RecordingChannel(outcome)

        worker = Workers(Limits(), "harness", self._callback, channel_of, remember, Suspicion())
        delivery = Delivery(opened, method, properties or pika.BasicProperties(), body)
        with self._calls_canned(outcome), _held(delivery):
            worker.handle(delivery)
        return outcome

    @contextmanager
    def _calls_canned(self, outcome: Outcome) -> Iterator[None]:
        """While the callback runs, whom its service asks answers from here."""
        before = getattr(self._service, "_mq_caller", None)
        if before is None:  # a callback that belongs to no service
            yield
            return

        def published(sent: Publication) -> None:
            outcome.published.append(
                Publish(sent.exchange, sent.routing_key, sent.body, sent.properties)
            )

        self._service._mq_caller = CannedCaller(
            self._service, self._answers, outcome.asked.append, published
        )
        try:
            yield
        finally:
            self._service._mq_caller = before


@contextmanager
def _held(delivery: Delivery) -> Iterator[None]:
    """As a worker has it in hand."""
    token = in_hand.set(SimpleNamespace(thread=None, delivery=delivery, began=time.monotonic()))
    try:
        yield
    finally:
        in_hand.reset(token)


class _RecordingOpened:
    """Has those methods of `mq_connector.consumer.opened.OpenedChannel` that settle what comes back."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def ack(self, tag: int, multiple: bool = False) -> None:
        self._outcome.settle("ack")

    def reject(self, tag: int, requeue: bool) -> None:
        self._outcome.settle("requeue" if requeue else "dead-letter")

    def reject_later(self, tag: int, seconds: float) -> None:
        self._outcome.settle("requeue")

    def is_settled(self, tag: int) -> bool:
        return bool(self._outcome.settled)


class _RecordingChannel:
    """Has the methods of `mq_connector.consumer.channel.Channel` and writes down what they are asked for."""

    CLOSED, OPENING, OPEN, CLOSING = range(4)
    is_opening, is_closing, flow_active = False, False, True
    channel_number = 1
    consumer_tags = ("harness",)
    connection = None

    def __init__(self, outcome: Outcome) -> None:
        self._recorded = outcome
        self.is_open = True

    @property
    def is_closed(self) -> bool:
        return not self.is_open

    @property
    def _outcome(self) -> Outcome:
        """Where everything is written down, unless the handler has closed the channel."""
        if not self.is_open:
            raise ChannelWrongStateError("Channel is closed: the callback has called its close()")
        return self._recorded

    def close(self, *_: Any, **__: Any) -> None:
        self.is_open = False

    @property
    def anew(self) -> _RecordingChannel:
        return _RecordingChannel(self._recorded)

    def leave(self, _: Any) -> None:
        pass

    def basic_qos(self, *_: Any, **__: Any) -> None:
        assert self._outcome

    def confirm_delivery(self, *callbacks: Any) -> None:
        if callbacks:
            raise NotInCallback(*CONFIRMS)

    def basic_get(self, queue: str, *given: Any, auto_ack: bool = False, **_: Any) -> Got:
        """Every queue is empty."""
        if not auto_ack and True not in given:
            raise NotInCallback(*GET_UNSETTLED)
        return None, None, None

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: pika.BasicProperties | None = None,
        mandatory: bool = False,
    ) -> None:
        raw = body.encode() if isinstance(body, str) else body
        self._outcome.published.append(Publish(exchange, routing_key, raw, properties))

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        self._outcome.settle("ack")

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        self._outcome.settle("requeue" if requeue else "dead-letter")

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        self.basic_reject(delivery_tag, requeue)

    def queue_declare(self, queue: str, *_: Any, callback: Any = None, **__: Any) -> Result:
        self._outcome.declared.append(queue)
        return self._ok(callback, Queue.DeclareOk(queue, message_count=0, consumer_count=0))

    def exchange_declare(self, exchange: str, *_: Any, callback: Any = None, **__: Any) -> Result:
        self._outcome.declared.append(exchange)
        return self._ok(callback)

    def queue_bind(self, *_: Any, callback: Any = None, **__: Any) -> Result:
        return self._ok(callback)

    queue_unbind = queue_delete = queue_purge = queue_bind
    exchange_bind = exchange_unbind = exchange_delete = queue_bind

    def _ok(self, callback: Any, method: Any = None) -> Result:
        assert self._outcome
        result = Result()
        result.set(pika.frame.Method(1, method))
        if callback is not None:
            callback(result.wait())
        return result


refuse_the_rest(_RecordingChannel)
