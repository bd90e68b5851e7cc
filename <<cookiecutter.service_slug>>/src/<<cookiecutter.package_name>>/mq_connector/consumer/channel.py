"""The channel that a callback gets: pika's method names, usable from any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
from pika.exchange_type import ExchangeType

from ..connection import Connection
from ..connection.scratch import Operation, Result, Scratch
from ..errors import ChannelError, MQError, NotConnected
from ..fork import Process
from ..logs import Logger
from .opened import Delivery, Message, OpenedChannel
from .outbox import Outbox

_log = Logger(__name__)

Arguments = dict[str, Any]


class Channel:
    """What the callback that handles one message sees of the channel that the message came by.

    What the broker may refuse (declaring, binding, deleting) runs on another channel, so it can't cost
    the consumer this one. It belongs to the consumer, so it has no ``close``.
    """

    __slots__ = ("_delivery", "_opened", "_outbox", "_process")

    def __init__(
        self,
        opened: OpenedChannel,
        outbox: Outbox,
        process: Process,
        delivery: Delivery | None = None,
    ) -> None:
        self._opened = opened
        self._delivery = delivery
        self._outbox = outbox
        self._process = process

    @property
    def connection(self) -> Connection:
        """The connection that the message came by."""
        return self._outbox.connection

    @property
    def channel_number(self) -> int:
        """AMQP's number of the channel."""
        return self._opened.number

    @property
    def is_open(self) -> bool:
        """Whether the message can still be settled."""
        return self._opened.is_open

    @property
    def is_closed(self) -> bool:
        """The opposite of `is_open`, as pika has both."""
        return not self._opened.is_open

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
        comes back and is sent again. What goes to another exchange is confirmed by the broker before the
        message that is being handled is acknowledged; if it is refused, that message is dead-lettered.
        After the loss of the connection it is held for the next one.

        :raises NotConnected: in a forked child, or more is waiting for a lost connection than may be held
        :raises ValueError: the broker wouldn't take it: a name of more than 255 bytes, an expiration
            that is no number, a foreign user id, headers that don't fit
        """
        self._process.check()
        if isinstance(body, str):
            body = body.encode()
        self._outbox.publish(
            self._opened,
            Message(exchange, routing_key, body, properties, mandatory or not exchange),
            self._delivery,
        )

    # ---- settling

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """Acknowledge; a second time, or on a channel that is gone, it does nothing.

        :raises NotConnected: in a forked child, as all that settles
        """
        confirms = None if self._delivery is None else self._delivery.confirms
        if confirms is None:
            self._opened.ack(delivery_tag, multiple)
        else:
            # Where it is refused, the message is dead-lettered instead.
            confirms.then(lambda: self._opened.ack(delivery_tag, multiple), lambda _: None)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """Reject: back into the queue, or to the dead letters; twice does no harm."""
        self._opened.reject(delivery_tag, requeue)

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        """Negative acknowledgement, as `basic_reject`; since RabbitMQ 4.3 it isn't counted."""
        for tag in self._opened.unsettled(delivery_tag) if multiple else (delivery_tag,):
            self._opened.nack(tag, requeue)

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
        return self._try(operation, what, self._opened.scratch_for_transient if transient else None)

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
        opened = self._opened

        def done(value: Any, error: Any) -> None:
            if error is not None:
                _log.warning("%s: %s", what, error)
            result.set(value, error)

        if opened.is_open:
            self.connection.call(lambda: (scratch or opened.scratch).do(operation, done))
        else:
            result.set(None, NotConnected(f"{what}: the connection was lost"))
        return result


def _failed(error: MQError) -> Result:
    result = Result()
    result.set(None, error)
    return result
