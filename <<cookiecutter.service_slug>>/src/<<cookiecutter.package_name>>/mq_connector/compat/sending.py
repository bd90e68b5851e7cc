"""Sending as Neon's programs do: to queues and exchanges that the sender makes where they are missing."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, UnroutableError
from pika.exchange_type import ExchangeType

from .. import payload
from ..commands.session import Session
from ..connection import Connection, input_queue
from ..connection.broker import NOT_FOUND
from ..connection.scratch import Operation, Steps
from ..errors import ChannelError, MQError, NotConnected, PublishError, Unroutable
from ..publisher import Publisher

#: Seconds for the broker to take a message, connecting included.
_TAKEN_WITHIN = 30.0
#: Seconds between two attempts at a queue that is missing and that we may not make.
_PAUSE = 0.05


@dataclass(frozen=True)
class Message:
    """What is sent, and where to.

    :ivar expiration: milliseconds for which it may wait in a queue
    """

    id: Any
    body: bytes
    exchange: str = ""
    queue: str = ""
    exchange_type: str | ExchangeType = ExchangeType.direct
    expiration: int | str | None = 1000

    @classmethod
    def make(
        cls, data: Mapping[Any, Any], form: payload.Form = payload.Form.LITERAL, **where: Any
    ) -> Message:
        """Encode a dict, which isn't changed; without a ``message_id``, or with None, the message gets one.

        :raises TypeError: it isn't a dict
        :raises ValueError: there is nothing in it
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"request_data must be a dict, not a {type(data).__name__}")
        if not data:
            raise ValueError("request_data is empty")
        message = dict(data)
        if message.get("message_id") is None:
            context = message.get("context")
            mq = context.get("mq") if isinstance(context, Mapping) else None
            known = mq.get("message_id") if isinstance(mq, Mapping) else None
            message["message_id"] = uuid.uuid4().hex if known is None else known
        return cls(message["message_id"], payload.encode(message, form), **where)

    def unbound(self) -> Message:
        """The same without a queue, for an exchange whose subscribers make theirs."""
        return self if not self.exchange else replace(self, queue="")

    @property
    def properties(self) -> pika.BasicProperties:
        """The message's properties."""
        expiration = None if self.expiration is None else str(self.expiration)
        return pika.BasicProperties(expiration=expiration)

    @property
    def mandatory(self) -> bool:
        """Whether a missing queue is an error (AMQP's ``mandatory``); an exchange without queues is none."""
        return not self.exchange

    @property
    def bound(self) -> bool:
        """Whether the queue has to be bound to the exchange."""
        kind = getattr(self.exchange_type, "value", self.exchange_type)
        return bool(self.exchange and self.queue) and kind == ExchangeType.fanout.value


class Sender:
    """Sends to one vhost over a connection that stays open, from any thread, with confirms."""

    def __init__(self, connection: Connection) -> None:
        self._publisher = Publisher(connection)
        self._ready: set[tuple[str, str]] = set()

    def send(self, message: Message, make: bool = True) -> None:
        """Send one message; returns when the broker has taken it.

        :param make: whether a missing queue is made, as it has to be for a message that comes before
            its consumer
        :raises PublishError: it wasn't taken before it would have expired
        :raises NotConnected: there is no connection
        :raises StartError: the broker refuses us
        """
        where = (message.exchange, message.queue if message.bound else "")
        was_ready = where in self._ready
        if message.exchange and not was_ready:
            self._run(lambda session: session.run(_exchange(message)))
            self._ready.add(where)
        try:
            self._publish(message)
        except Unroutable:
            if make:
                self._make(message)
        except PublishError as error:
            self._ready.discard(where)
            if not str(error).startswith(str(NOT_FOUND)) or not was_ready:
                raise
            self.send(message, make)  # somebody has deleted the exchange

    def close(self) -> None:
        """Close the connection."""
        self._publisher.close()

    def _publish(self, message: Message) -> None:
        sent = self._publisher.publish(
            message.exchange,
            message.queue,
            message.body,
            message.properties,
            mandatory=message.mandatory,
        )
        try:
            sent.result(_TAKEN_WITHIN)
        except FutureTimeoutError:
            reason = self._publisher.connection.last_error
            raise NotConnected(reason or f"no confirm within {_TAKEN_WITHIN:g} s") from None

    def _make(self, message: Message) -> None:
        """Make the queue that is missing; who may not can only wait for its owner."""
        milliseconds = str(message.expiration)
        patience = int(milliseconds) / 1000 if milliseconds.isdecimal() else _TAKEN_WITHIN
        deadline = time.monotonic() + patience
        made = False
        while True:
            if not made:
                made = self._try(input_queue.declare(message.queue)) or self._try(
                    # Where a broker denies transient queues, Neon's consumers make this kind.
                    input_queue.declare(
                        message.queue, durable=True, arguments={"x-queue-type": "quorum"}
                    )
                )
            try:
                self._publish(message)
                return
            except Unroutable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE)

    def _try(self, operation: Operation) -> bool:
        try:
            self._run(lambda session: session.do(operation))
        except MQError:
            return False
        return True

    def _run(self, ask: Callable[[Session], object]) -> None:
        """On a connection of its own, which the broker may close to say no."""
        with Session(self._publisher.connection.address) as session:
            ask(session)


def _exchange(message: Message) -> Steps:
    """Declare the exchange, and the queue behind it where there is one; what exists is taken as it is."""

    def declare(channel: Any, done: Callable[[Any], None]) -> None:
        channel.exchange_declare(message.exchange, message.exchange_type, callback=done)

    def bind(channel: Any, done: Callable[[Any], None]) -> None:
        channel.queue_bind(message.queue, message.exchange, callback=done)

    operations: list[Operation] = [declare]
    if message.bound:
        operations += [input_queue.declare(message.queue), bind]
    for operation in operations:
        try:
            yield operation
        except ChannelError:
            continue  # if it matters, the publish says so


class Senders:
    """The senders of one connector, by where they send to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._senders: dict[Any, Sender] = {}

    def get(self, key: Any, connection: Callable[[], Connection]) -> Sender:
        """The sender for a key, made with a connection when it is first asked for."""
        with self._lock:
            if key not in self._senders:
                self._senders[key] = Sender(connection())
            return self._senders[key]

    def forget(self, key: Any) -> None:
        """Close one, so that the next message has a new one."""
        with self._lock:
            sender = self._senders.pop(key, None)
        if sender is not None:
            sender.close()

    def close(self) -> None:
        """Close all."""
        for key in list(self._senders):
            self.forget(key)


# ---- on a connection that the caller has opened


def emit(
    connection: pika.BlockingConnection | pika.SelectConnection | Connection, message: Message
) -> None:
    """Send one message over an open connection.

    With a ``SelectConnection``, on its loop; with the ``connection`` of a callback's channel, from
    any thread. Both return before the message has left.
    """
    if isinstance(connection, pika.BlockingConnection):
        _emit_blocking(connection, message)
    elif isinstance(connection, Connection):
        connection.call(lambda: _emit_on_loop(connection, message))
    else:
        connection.channel(on_open_callback=_Emission(message))


def _emit_on_loop(connection: Connection, message: Message) -> None:
    if connection.link is not None and connection.link.is_open:
        connection.link.channel(_Emission(message))


def _emit_blocking(connection: pika.BlockingConnection, message: Message) -> None:
    def attempt(operation: Callable[[BlockingChannel], object]) -> None:
        """On a channel that may die."""
        channel = connection.channel()
        try:
            operation(channel)
            channel.close()
        except ChannelClosedByBroker:
            pass  # if it matters, the publish says so

    if message.exchange:
        attempt(lambda channel: channel.exchange_declare(message.exchange, message.exchange_type))
    if message.bound:
        attempt(lambda channel: channel.queue_declare(message.queue))
        attempt(lambda channel: channel.queue_bind(message.queue, message.exchange))
    channel = connection.channel()
    channel.confirm_delivery()
    arguments = (message.exchange, message.queue, message.body)
    try:
        channel.basic_publish(*arguments, message.properties, mandatory=message.mandatory)
    except UnroutableError:
        attempt(lambda channel: channel.queue_declare(message.queue))
        channel.basic_publish(*arguments, message.properties, mandatory=True)
    channel.close()


class _Emission:
    """One message on its way over somebody's ``SelectConnection``; called with an open channel."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._returned = False

    def __call__(self, channel: pika.channel.Channel) -> None:
        message = self._message
        if not message.exchange:
            self._publish(channel)
            return
        # Whether the broker has let us declare or not: then it is published, on another channel.
        channel.add_on_close_callback(lambda *_: self._reopen(channel.connection))
        channel.exchange_declare(message.exchange, message.exchange_type)
        if message.bound:
            channel.queue_declare(message.queue)
            channel.queue_bind(message.queue, message.exchange)
        channel.basic_qos(callback=lambda _: channel.close())

    def _reopen(self, connection: Any) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self._publish)

    def _publish(self, channel: pika.channel.Channel) -> None:
        message = self._message
        channel.add_on_return_callback(lambda *_: self._on_return())
        channel.confirm_delivery(lambda frame: self._on_confirm(channel))
        channel.basic_publish(
            message.exchange,
            message.queue,
            message.body,
            message.properties,
            mandatory=message.mandatory,
        )

    def _on_return(self) -> None:
        self._returned = True

    def _on_confirm(self, channel: pika.channel.Channel) -> None:
        message = self._message
        if self._returned:
            self._returned = False
            channel.queue_declare(message.queue)
            channel.basic_publish("", message.queue, message.body, message.properties)
        else:
            channel.close()
