"""Hands messages to a handler, and waits for what it does with them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pika
from pika.spec import Basic

from .. import payload
from ..calling.canned import Answer, CannedCaller
from ..calling.message import Publication
from ..config import Limits
from ..consumer.opened import Delivery
from ..consumer.workers import Callback, Suspicion, Workers
from ..consumer.workers.current import in_hand
from ..handlers.life import Life
from .outcome import Outcome, Publish
from .recording import RecordingChannel, RecordingOpened

#: The reply queue that the harness names in its requests.
REPLY_QUEUE = "harness.reply"
#: Seconds that an async handler, or `on_stop`, may take.
_PATIENCE = 30.0


class Harness:
    """Hands messages to a callback, one at a time.

    :param callback: such as a service's ``handle_api_input``
    :param answers: what `MQConnector.ask` returns, by the queue that is asked: a reply, a function of the request
        that returns one, or an exception to raise. Any other queue counts as missing
    :param limits: workers, bounds and so on; by default those of a service without any setting
    """

    def __init__(
        self,
        callback: Callback,
        answers: Mapping[str, Answer] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._callback = callback
        self._answers = answers or {}
        self._service: Any = getattr(callback, "__self__", None)
        self._limits = limits or Limits()
        self._sent = self._deliveries = 0
        #: What was sent last: exchange, routing key, body, properties.
        self._last = "", "", b"", pika.BasicProperties()
        self._reply_queue: str | None = None
        self._life = Life(self._service)
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

        :param request: with ``"routing_key": None`` for a client that wants no reply
        :param form: how its body is written
        :raises PayloadError: the request can't be encoded in that form
        """
        message = {"message_id": f"message-{self._sent + 1}", "routing_key": REPLY_QUEUE, **request}
        outcome = self.send_body(payload.encode(message, form))
        self._reply_queue = outcome.reply_queue = message["routing_key"]
        return outcome

    def publish(self, exchange: str, routing_key: str, message: Mapping[Any, Any]) -> Outcome:
        """Publish a message to an exchange, as the callback's consumer would get it.

        :param message: gets a ``message_id``, if it has none
        :raises AssertionError: that consumer's queue isn't bound to the exchange by such a routing key
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

        :param properties: by default none, so that the client wants no reply
        :param exchange: to which it is said to be published
        :param routing_key: with which
        """
        self._reply_queue = properties.reply_to if properties else None
        self._sent += 1
        self._last = exchange, routing_key, body, properties or pika.BasicProperties()
        self._deliveries = 0
        return self._deliver()

    def send_again(self) -> Outcome:
        """Deliver the last message again, as the broker does after a `RetryMessage` or a loss."""
        self._deliveries += 1
        again = self._deliver()
        again.reply_queue = self._reply_queue
        return again

    def _deliver(self) -> Outcome:
        exchange, routing_key, body, properties = self._last
        outcome = Outcome(reply_queue=properties.reply_to)
        if self._deliveries:
            properties.headers = {
                **(properties.headers or {}),
                "x-delivery-count": self._deliveries,
            }

        def remember(error: Exception) -> None:
            outcome.error = error

        method = Basic.Deliver("harness", self._sent, self._deliveries > 0, exchange, routing_key)
        opened: Any = RecordingOpened(outcome)

        def channel_of(_: Delivery) -> Any:
            return RecordingChannel(outcome)

        workers = Workers(
            self._limits, "harness", self._callback, channel_of, remember, Suspicion()
        )
        workers.settling.on_refused = remember
        delivery = Delivery(opened, method, properties, body)
        with self._calls_canned(outcome), _held(delivery, self._limits):
            workers.handle(delivery)
            if workers.tasks.places:
                ended = workers.tasks.wait(_PATIENCE)
                workers.tasks.stop()
                assert ended, f"the handler hasn't ended within {_PATIENCE:g} s"
        return outcome

    @contextmanager
    def _calls_canned(self, outcome: Outcome) -> Iterator[None]:
        """While the callback runs, what its service asks is answered from `answers`."""
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
def _held(delivery: Delivery, limits: Limits) -> Iterator[None]:
    """Handle a delivery as a worker does, which decodes within the limits' bounds."""
    held = in_hand.set(SimpleNamespace(thread=None, delivery=delivery, began=time.monotonic()))
    bound = payload.bounds.set(payload.Bounds(limits.max_body, limits.max_depth))
    try:
        yield
    finally:
        payload.bounds.reset(bound)
        in_hand.reset(held)
