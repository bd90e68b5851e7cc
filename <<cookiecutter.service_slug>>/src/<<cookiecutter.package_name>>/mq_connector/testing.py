"""Try a handler without a broker::

    harness = Harness(MyService(config={}).handle_api_input)
    outcome = harness.send({"text": "hi"})
    assert outcome.reply["echo"] == {"text": "hi"}
    assert outcome.settled == "ack"

The callback runs in the calling thread, wrapped as in the real consumer: a return acknowledges, an
exception dead-letters the message and answers with an error. What is async runs on the event loop, and is
waited for. Within ``with harness:`` the service has begun (`on_start`, `worker_context`), afterwards it
has ended (`on_stop`); what it does `every` so many seconds is a method that a test may call.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pika
from pika.exceptions import ChannelWrongStateError
from pika.spec import Basic, Queue

from . import payload
from .config import Limits
from .connection.scratch import Result
from .consumer.channel.apart import Got
from .consumer.channel.instead import CONFIRMS, GET_UNSETTLED, refuse_the_rest
from .consumer.opened import Delivery
from .consumer.workers import Callback, Suspicion, Workers
from .errors import NotInCallback
from .handlers.life import Life

#: The reply queue that the harness names in its requests.
REPLY_QUEUE = "harness.reply"
#: Seconds that an async handler may take.
_PATIENCE = 30.0


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
    :param limits: by default those of a service without any setting
    """

    def __init__(self, callback: Callback, limits: Limits | None = None) -> None:
        self._callback = callback
        self._limits = limits or Limits()
        self._sent = self._deliveries = 0
        self._last = b"", pika.BasicProperties()
        self._reply_queue: str | None = None
        self._life = Life(getattr(callback, "__self__", None))
        self._within = ExitStack()

    def __enter__(self) -> Harness:
        self._life.begin()
        if self._life.around is not None:
            self._within.enter_context(self._life.around())
        return self

    def __exit__(self, *_: object) -> None:
        self._life.ask_to_stop()
        self._within.close()
        assert self._life.end([], _PATIENCE), "on_stop() has failed"

    def send(
        self, request: Mapping[Any, Any], form: payload.Form = payload.Form.LITERAL
    ) -> Outcome:
        """Send a request as a client would: with a message id and a reply queue, unless it has its own.

        Pass ``routing_key=None`` in the request for a client that wants no reply.
        """
        message = {"message_id": f"message-{self._sent + 1}", "routing_key": REPLY_QUEUE, **request}
        outcome = self.send_body(payload.encode(message, form))
        self._reply_queue = outcome.reply_queue = message["routing_key"]
        return outcome

    def send_body(self, body: bytes, properties: pika.BasicProperties | None = None) -> Outcome:
        """Send a raw body."""
        self._reply_queue = properties.reply_to if properties else None
        self._sent += 1
        self._last = body, properties or pika.BasicProperties()
        self._deliveries = 0
        return self._deliver()

    def send_again(self) -> Outcome:
        """Deliver the last message again, as the broker does after a `RetryMessage` or a loss."""
        self._deliveries += 1
        again = self._deliver()
        again.reply_queue = self._reply_queue
        return again

    def _deliver(self) -> Outcome:
        body, properties = self._last
        outcome = Outcome(reply_queue=properties.reply_to)
        if self._deliveries:
            properties.headers = {
                **(properties.headers or {}),
                "x-delivery-count": self._deliveries,
            }

        def remember(error: Exception) -> None:
            outcome.error = error

        method = Basic.Deliver("harness", self._sent, self._deliveries > 0, "", "harness")
        opened: Any = _RecordingOpened(outcome)

        def channel_of(_: Delivery) -> Any:
            return _RecordingChannel(outcome)

        workers = Workers(
            self._limits, "harness", self._callback, channel_of, remember, Suspicion()
        )
        workers.handle(Delivery(opened, method, properties, body))
        if workers.tasks.places:
            ended = workers.tasks.wait(_PATIENCE)
            workers.tasks.stop()
            assert ended, f"the handler hasn't ended within {_PATIENCE:g} s"
        return outcome


class _RecordingOpened:
    """Has those methods of `mq_connector.consumer.opened.OpenedChannel` that settle what comes back."""

    observer = None
    is_open = True

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

    def go_on_aside(self, _: Any) -> None:
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
