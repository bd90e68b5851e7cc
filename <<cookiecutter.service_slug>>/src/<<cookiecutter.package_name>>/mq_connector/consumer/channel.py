"""The channel that a callback gets: pika's method names, usable from any thread."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Container
from queue import SimpleQueue
from typing import Any

import pika
from pika.exchange_type import ExchangeType
from pika.spec import Basic

from ..connection import Connection, frames
from ..connection.fork import Process
from ..connection.scratch import Operation, Result, Scratch
from ..errors import ChannelError, MQError, NotConnected
from .acks import Acks

_log = logging.getLogger(__name__)

#: Longest time in seconds that a publish or an ack waits for others to travel with.
LINGER = 0.005
#: From this version on the broker may refuse a transient queue by closing the connection (541).
_TRANSIENT_DENIED_SINCE = (4, 3)

Publish = tuple[str, str, bytes, "pika.BasicProperties | None", bool]
Arguments = dict[str, Any]


class Channel:
    """One opened channel of a consumer, shared by its workers.

    Publishes and acknowledgements are collected and leave together: at once while nothing else is
    waiting to be handled, otherwise in bursts. What the broker may refuse (declaring, binding,
    deleting) runs on another channel, so it can't cost the consumer this one. It belongs to the
    consumer, so it has no ``close``.

    :param amqp: pika's open channel
    :param inbox: deliveries that wait for a worker; while there are some, sending can wait too
    :param burst: collected frames that are worth sending
    :param elsewhere: takes a publish when this channel is gone, or its queue is one of ``waiting``
    :param waiting: queues for which returned messages wait, see `mq_connector.consumer.returned`
    """

    def __init__(
        self,
        connection: Connection,
        amqp: pika.channel.Channel,
        inbox: SimpleQueue[Any],
        burst: int,
        elsewhere: Callable[[Publish], None],
        waiting: Container[str] = (),
    ) -> None:
        self.connection = connection
        self.channel_number: int = amqp.channel_number
        self.scratch = Scratch(connection)
        #: Where a transient queue is declared, which some brokers deny in a way that costs a connection.
        self.scratch_for_transient = self.scratch
        if connection.broker_version >= _TRANSIENT_DENIED_SINCE:
            self.scratch_for_transient = Scratch(connection, apart=True)
        self._transport = connection.transport
        self._frame_max: int = connection.amqp.params.frame_max
        self._inbox = inbox
        self._burst = burst
        self._elsewhere = elsewhere
        self._waiting = waiting
        self._encode = frames.PropertiesEncoder()
        self._process = Process()
        self._lock = threading.Lock()
        self._acks = Acks()
        self._publishes: list[bytes] = []
        self._rejects: list[bytes] = []
        self._retries: set[int] = set()
        self._lingering = False
        self.is_open = True
        self._transport.reader.attach(self.channel_number, self)

    @property
    def is_closed(self) -> bool:
        """The opposite of `is_open`, as pika has both."""
        return not self.is_open

    def __repr__(self) -> str:
        return f"<Channel number={self.channel_number} {'open' if self.is_open else 'closed'}>"

    # ---- publishing

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: pika.BasicProperties | None = None,
        mandatory: bool = False,
    ) -> None:
        """Publish a message; returns before it is sent.

        To the default exchange it goes as mandatory, so that a reply whose queue isn't there yet
        comes back and is sent again. After the loss of the connection it is held for the next one.

        :raises NotConnected: in a forked child, or more is waiting for a lost connection than may be held
        :raises ValueError: exchange or routing key exceed 255 bytes
        """
        self._process.check()
        if isinstance(body, str):
            body = body.encode()
        if not exchange:
            mandatory = True
        while not self._transport.wait_for_room(1.0):
            if not self.is_open:
                break
        self.publish((exchange, routing_key, body, properties, mandatory))

    def publish(self, message: Publish) -> None:
        """As `basic_publish`, without waiting for room: for the loop, which alone can make it."""
        # Also for what has to wait: who publishes what can't be encoded is to hear of it.
        data = self._frames(message)
        if not message[0] and message[1] in self._waiting:
            self._hold(message)
        else:
            self._send(data, message)

    def publish_now(self, message: Publish) -> None:
        """As `publish`, ahead of what waits for the same queue: for what was waiting itself."""
        self._send(self._frames(message), message)

    def _frames(self, message: Publish) -> bytes:
        exchange, routing_key, body, properties, mandatory = message
        return frames.publish(
            self.channel_number,
            exchange,
            routing_key,
            self._encode(properties),
            body,
            mandatory,
            self._frame_max,
        )

    def _send(self, data: bytes, message: Publish) -> None:
        with self._lock:
            if self.is_open:
                self._publishes.append(data)
                self._send_or_linger()
                return
        self._hold(message)

    def _hold(self, message: Publish) -> None:
        """Leave it to the outbox, with the properties as they are now: they are the caller's."""
        exchange, routing_key, body, properties, mandatory = message
        self._elsewhere((exchange, routing_key, body, copy.copy(properties), mandatory))

    # ---- settling

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """Acknowledge; a second time, or on a channel that is gone, it does nothing.

        :raises NotConnected: in a forked child, as all that settles
        """
        self._process.check()  # before the lock, which a fork may have left locked
        with self._lock:
            if self.is_open and self._acks.ack(delivery_tag, multiple):
                self._send_or_linger()

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """Reject: back into the queue, or to the dead letters; twice does no harm."""
        self._refuse(frames.reject, delivery_tag, requeue)

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        """Negative acknowledgement, as `basic_reject`; since RabbitMQ 4.3 it isn't counted."""
        if not multiple:
            self._refuse(frames.nack, delivery_tag, requeue)
            return
        self._process.check()
        with self._lock:
            for tag in self._acks.unsettled(delivery_tag):
                self._rejects.append(frames.nack(self.channel_number, tag, requeue))
                self._acks.told(tag)
            self._flush()

    @property
    def outstanding(self) -> int:
        """Deliveries that nobody has settled yet."""
        with self._lock:
            return self._acks.outstanding

    def is_settled(self, delivery_tag: int) -> bool:
        """Whether somebody has acknowledged or rejected this delivery."""
        with self._lock:
            return self._acks.is_settled(delivery_tag)

    def _refuse(self, frame: Callable[[int, int, bool], bytes], tag: int, requeue: bool) -> None:
        self._process.check()
        with self._lock:
            if self.is_open and self._acks.told(tag):
                self._rejects.append(frame(self.channel_number, tag, requeue))
                self._flush()

    # ---- what the broker may refuse

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
    ) -> Result:
        """Declare a queue; the result's ``method.queue`` waits for the broker, ignoring it doesn't."""

        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            channel.queue_declare(queue, passive, durable, exclusive, auto_delete, arguments, done)

        transient = not (passive or durable or exclusive)
        what = f"declaring queue {queue!r}"
        if set(queue) & {"\r", "\n"}:
            # The broker takes them out, so pika would wait for ever for an answer with this name.
            return _failed(ChannelError(400, f"{what}: a name can't hold a line break"))
        return self._try(operation, what, self.scratch_for_transient if transient else None)

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str | None = None,
        arguments: Arguments | None = None,
    ) -> Result:
        """Bind a queue to an exchange."""
        return self._try(
            lambda channel, done: channel.queue_bind(queue, exchange, routing_key, arguments, done),
            f"binding queue {queue!r} to exchange {exchange!r}",
        )

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str | None = None,
        arguments: Arguments | None = None,
    ) -> Result:
        """Undo `queue_bind`."""
        return self._try(
            lambda channel, done: channel.queue_unbind(
                queue, exchange, routing_key, arguments, done
            ),
            f"unbinding queue {queue!r} from exchange {exchange!r}",
        )

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> Result:
        """Delete a queue."""
        return self._try(
            lambda channel, done: channel.queue_delete(queue, if_unused, if_empty, done),
            f"deleting queue {queue!r}",
        )

    def queue_purge(self, queue: str) -> Result:
        """Drop the messages that are ready in a queue."""
        return self._try(
            lambda channel, done: channel.queue_purge(queue, done), f"purging queue {queue!r}"
        )

    def exchange_declare(
        self,
        exchange: str,
        exchange_type: ExchangeType | str = ExchangeType.direct,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
    ) -> Result:
        """Declare an exchange."""
        return self._try(
            lambda channel, done: channel.exchange_declare(
                exchange, exchange_type, passive, durable, auto_delete, internal, arguments, done
            ),
            f"declaring exchange {exchange!r}",
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False) -> Result:
        """Delete an exchange."""
        return self._try(
            lambda channel, done: channel.exchange_delete(exchange, if_unused, done),
            f"deleting exchange {exchange!r}",
        )

    def _try(self, operation: Operation, what: str, scratch: Scratch | None = None) -> Result:
        result = Result()

        def done(value: Any, error: Any) -> None:
            if error is not None:
                _log.warning("%s: %s", what, error)
            result.set(value, error)

        if self.is_open:
            self.connection.call(lambda: (scratch or self.scratch).do(operation, done))
        else:
            result.set(None, NotConnected(f"{what}: the connection was lost"))
        return result

    # ---- for the consumer and its loop

    def deliver(self, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        """A message has arrived, on the loop."""
        assert method.delivery_tag is not None
        self._acks.delivered(method.delivery_tag)
        self._inbox.put((self, method, properties, body))

    def settle(self, delivery_tag: int) -> None:
        """The callback has returned: acknowledge unless it has settled the message itself."""
        self._process.check()
        with self._lock:
            if self.is_open:
                self._acks.ack(delivery_tag)
                self._send_or_linger()

    def reject_later(self, delivery_tag: int, seconds: float) -> None:
        """Put a message back after a while; until then it counts as outstanding."""
        with self._lock:
            if not self.is_open or self._acks.is_settled(delivery_tag):
                return
            self._retries.add(delivery_tag)
        self.connection.call(
            lambda: self.connection.later(seconds, lambda: self._reject_retries({delivery_tag}))
        )

    def reject_retries(self) -> None:
        """Put back at once what was to wait; for the end of the consumer."""
        self._reject_retries(set(self._retries))

    def _reject_retries(self, tags: set[int]) -> None:
        for tag in tags & self._retries:
            self._retries.discard(tag)
            self.basic_reject(tag, requeue=True)

    def cancel(self, consumer_tag: str) -> None:
        """Have a consumer removed that the broker has cancelled: not every cancelled one is gone."""
        with self._lock:
            self._flush()
            if self.is_open:
                self._transport.send([frames.cancel(self.channel_number, consumer_tag)])

    def flush(self) -> None:
        """Send what was collected."""
        with self._lock:
            self._flush()

    def closing(self) -> None:
        """The channel ends: a frame sent on it from now on would cost the whole connection."""
        with self._lock:
            self.is_open = False

    def end(self) -> None:
        """The channel is gone: forget it."""
        self.closing()
        self._transport.reader.detach(self.channel_number)
        self.scratch.abandon()
        self.scratch_for_transient.abandon()

    def _send_or_linger(self) -> None:
        if len(self._publishes) + self._acks.pending >= self._burst or self._inbox.empty():
            self._flush()
        elif not self._lingering:
            self._lingering = True
            self.connection.call(self._linger)

    def _linger(self) -> None:
        self.connection.later(LINGER, self._on_lingered)

    def _on_lingered(self) -> None:
        with self._lock:
            waiting = self.is_open and bool(self._publishes or self._acks.pending)
            self._flush()
            self._lingering = waiting
        if waiting:
            self._linger()

    def _flush(self) -> None:
        """Publishes first, so that no reply can be lost behind its ack; rejects before the acks that
        cover their tags (`Acks.take`)."""
        if not self.is_open:
            return
        burst, self._publishes = self._publishes, []
        if self._rejects:
            burst += self._rejects
            self._rejects = []
        if self._acks.pending:
            number = self.channel_number
            burst += [frames.ack(number, tag, multiple) for tag, multiple in self._acks.take()]
        self._transport.send(burst)


def _failed(error: MQError) -> Result:
    result = Result()
    result.set(None, error)
    return result
