"""Decides how a message leaves: now, when there is a channel again, or behind returned ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pika
from pika.spec import Basic

from ...connection import Connection
from ...errors import MQError, PublishError, Unroutable
from ...logs import Complaints, Logger, text_of
from ...publisher import Publisher
from ..opened import Confirms, Delivery, Message, OpenedChannel
from ..opened.collected import OnReplied
from .returned import ReturnedReplies
from .room import Room

_log = Logger(__name__)

#: Seconds that `publish` waits for room among the messages that wait.
_ROOM_WITHIN = 30.0
#: Bytes of a body that may be more than the broker takes: it doesn't say what its limit is (16 MiB from
#: RabbitMQ 4 on, if nothing else is set).
_LARGE = 4 * 1024 * 1024
#: What an address of direct reply-to begins with.
_DIRECT_REPLY = "amq.rabbitmq.reply-to."
#: Seconds between two warnings that a queue isn't bound.
_WARN_EVERY = 10.0

#: Calls back when the broker has dealt with all that was sent on the channel so far.
Barrier = Callable[[Callable[[], None]], None]


class Outbox:
    """By which the handlers of one consumer publish; outlasts the consumer's channels."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._room = Room()
        # Guards the five below: what is held before a channel comes isn't forgotten by it, and there is
        # one publisher of each kind.
        self._lock = threading.Lock()
        self._opened: OpenedChannel | None = None
        self._held: deque[Message] = deque()
        #: Messages that wait to be sent on the loop, and that later ones may not overtake.
        self._coming = 0
        self._publisher: Publisher | None = None
        self._expendable: Publisher | None = None
        self._barrier: Barrier = lambda _: None
        #: Which complaints of what handlers send and declare were logged; for the loop.
        self.complaints = Complaints()
        self._returned = ReturnedReplies(self, self.complaints)
        self._warned_at = 0.0
        #: Whether to publish everything with confirms, as a message in hand has just cost a channel.
        self.is_careful = False
        #: Is told when messages came that are replied to, if that is counted; see `Collected`.
        self.on_replied: OnReplied | None = None

    # ---- from any thread

    def publish(
        self, opened: OpenedChannel, message: Message, delivery: Delivery | None = None
    ) -> None:
        """Publish on a channel now, or as soon as that is possible.

        :param opened: the channel on which the message came that is being handled
        :param delivery: the message that is being handled: it is acknowledged only when everything that the
            broker might refuse is confirmed, and what is published later leaves later
        :raises ValueError: it can't be encoded, such as a name of more than 255 bytes
        :raises NotConnected: too many messages wait already, and there was no room within 30 s
        """
        opened.wait_for_room()
        # Before it may have to wait, so that the caller gets the error of what can't be encoded.
        data = opened.encode(message)
        exchange = message.exchange
        # What may be refused goes on a channel of its own: on the consumer's the broker wouldn't say which
        # message it was, and all that is in hand would be delivered again.
        if (
            exchange
            or self.is_careful
            or len(message.body) > _LARGE
            or (opened.fears_reply_to and message.routing_key.startswith(_DIRECT_REPLY))
        ):
            self._publish_confirmed(message, delivery)
        elif delivery is not None and delivery.confirms is not None:
            message = message.kept()
            self._room.take(len(message.body), _ROOM_WITHIN)
            delivery.confirms.then(
                lambda: self._send_or_hold(message), lambda _: self.let_go(message)
            )
        elif self._coming or message.routing_key in self._returned.queues:
            self._hold(message)
        elif opened.send(data, delivery):
            return  # the channel tells when it leaves
        else:
            self._hold(message)
        if self.on_replied is not None and delivery is not None and not exchange:
            self.on_replied([delivery.arrived])

    def may_have_to_wait(self, opened: OpenedChannel) -> bool:
        """Whether `publish` might wait for room."""
        if not opened.has_room or not self._room.is_half_empty:
            return True
        return self._publisher is not None and not self._publisher.is_half_empty

    def _publish_confirmed(self, message: Message, delivery: Delivery | None) -> None:
        publisher = self._publisher_for(message)
        confirms = None
        if delivery is not None:
            confirms = delivery.confirms = delivery.confirms or Confirms(self.connection.call)
            confirms.expect()
        try:
            confirmed = publisher.publish(*message)
        except MQError as error:
            if confirms is not None:
                confirms.outcome(error)
            raise
        confirmed.add_done_callback(lambda done: self._on_outcome(message, done, confirms))

    def confirmed(self, message: Message) -> Future[None]:
        """Publish with a confirm, apart from what handlers publish; returns and raises as `Publisher.publish`."""
        return self._publisher_for(message).publish(*message)

    def _publisher_for(self, message: Message) -> Publisher:
        with self._lock:
            if not message.exchange and message.routing_key.startswith(_DIRECT_REPLY):
                self._expendable = self._expendable or Publisher(
                    Connection(self.connection.address)
                )
                return self._expendable
            self._publisher = self._publisher or Publisher(self.connection)
            return self._publisher

    def _on_outcome(
        self, message: Message, confirmed: Future[None], confirms: Confirms | None
    ) -> None:
        """A reply whose queue isn't there is no failure of its request: it is sent again."""
        error: Any = confirmed.exception()
        if isinstance(error, Unroutable) and not message.exchange:
            error = None
            if not message.routing_key.startswith(_DIRECT_REPLY):
                self.connection.call(lambda: self._returned.came_back(message))
        elif error is not None:
            where = f"exchange {message.exchange!r}" if message.exchange else "a reply"
            error = PublishError(f"the broker refuses what was published to {where}: {error}")
        if confirms is not None:
            confirms.outcome(error)
        elif error is not None:
            _log.warning("%s", error)

    def close(self) -> None:
        """Close what was opened for publishing; from any thread but the loop."""
        for publisher in (self._publisher, self._expendable):
            if publisher is not None:
                publisher.close()

    @property
    def is_busy(self) -> bool:
        """Whether returned messages are still being sent again."""
        return bool(self._returned.queues)

    def _hold(self, message: Message) -> None:
        message = message.kept()
        self._room.take(len(message.body), _ROOM_WITHIN)
        with self._lock:
            if self._opened is None:
                self._held.append(message)
                return
            self._coming += 1
        self.connection.call(lambda: self._come(message))

    # ---- on the loop

    def on_channel(self, opened: OpenedChannel, barrier: Barrier) -> None:
        """There is a channel to publish on, or the one that there is has a consumer again."""
        with self._lock:
            known = opened is self._opened
            self._opened, self._barrier = opened, barrier
        while self._held and opened.is_open:
            self._send_or_hold(self._held.popleft())
        if not known:
            self._returned.on_channel()

    def on_lost(self) -> None:
        """It is gone."""
        with self._lock:
            self._opened = None
        self._returned.on_lost()

    def on_return(self, _amqp: Any, method: Basic.Return, *content: Any) -> None:
        """pika's callback for a returned message."""
        if not method.exchange:
            self._returned.on_return(method, *content)
        elif time.monotonic() - self._warned_at > _WARN_EVERY:
            self._warned_at = time.monotonic()
            _log.warning(
                "nothing is bound to exchange %r for %r: messages dropped",
                method.exchange,
                method.routing_key,
            )

    def _come(self, message: Message) -> None:
        self._send_or_hold(message)
        with self._lock:
            self._coming -= 1

    def _send_or_hold(self, message: Message) -> None:
        if not message.exchange and self._returned.hold(message):
            return
        if self.send_again(message):
            self.let_go(message)
            return
        with self._lock:
            self._held.append(message)

    # ---- on the loop: mq_connector.consumer.outbox.returned.Sender

    def send_again(self, message: Message) -> bool:
        """Publish on the channel that there is, if any.

        What that one can't send, though an earlier one could (the user is another, or frames are smaller), is
        dropped: it would cost this connection, and each that follows.
        """
        opened = self._opened
        if opened is None:
            return False
        try:
            data = opened.encode(message)
        except Exception as error:
            _log.error(
                "a message to %r can't be sent any more: %s", message.routing_key, text_of(error)
            )
            return True
        return opened.send(data)

    def when_answered(self, answered: Callable[[], None]) -> None:
        """Call back when all that comes back has come back."""
        self._barrier(answered)

    def declare(self, queue: str, refused: Callable[[MQError], object]) -> None:
        """Declare a queue the way Neon's clients do."""
        opened = self._opened

        def done(_: Any, error: MQError | None) -> None:
            if error is not None:
                refused(error)

        def operation(channel: pika.channel.Channel, ok: Callable[[Any], None]) -> None:
            channel.queue_declare(queue, callback=ok)

        if opened is not None:
            opened.scratch_for_transient.do(operation, done)

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run a function on the loop after some seconds."""
        self.connection.later(seconds, function)

    def keep(self, message: Message) -> None:
        """One more message waits: it was under way already, so it can't be made to wait for room."""
        self._room.add(len(message.body))

    def let_go(self, message: Message) -> None:
        """It has arrived, or isn't worth sending any more."""
        self._room.give(len(message.body))
