"""The other side of a consumer: publishes with confirms, takes replies, looks at queues."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pika
from mq_connector import payload
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from waiting import eventually

from .broker import DEAD_LETTERS, Broker


class Peer:
    """A client with a connection of its own, for one thread. Connects again where it has to.

    :param parameters: of the broker, or of the nodes of a cluster, the first that answers is taken
    """

    def __init__(
        self, parameters: pika.ConnectionParameters | Sequence[pika.ConnectionParameters]
    ) -> None:
        self._parameters = parameters
        self._connection: pika.BlockingConnection | None = None
        self._channel: BlockingChannel | None = None

    @property
    def channel(self) -> BlockingChannel:
        """An open channel with confirms."""
        if self._channel is None or not self._channel.is_open:
            if self._connection is None or not self._connection.is_open:
                self._connection = pika.BlockingConnection(self._parameters)
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def reset(self) -> None:
        """Forget the connection, which somebody has broken."""
        self._connection = self._channel = None

    def declare(self, queue: str, **options: Any) -> str:
        """Declare a queue; plainly, as Neon's clients do, unless `options` say otherwise."""
        name: str = self.channel.queue_declare(queue, **options).method.queue
        return name

    def declare_dead(self, queue: str) -> str:
        """Make the queue for the dead letters of a queue."""
        dead = self.declare(f"{queue}.dead", durable=True)
        self.channel.queue_bind(dead, DEAD_LETTERS, queue)
        return dead

    def publish(
        self, queue: str, body: bytes | Mapping[Any, Any], exchange: str = "", **properties: Any
    ) -> None:
        """Publish and wait for the confirm; raises `pika.exceptions.AMQPError` where none comes."""
        raw = body if isinstance(body, bytes) else payload.encode(body)
        self.channel.basic_publish(
            exchange, queue, raw, pika.BasicProperties(**properties), mandatory=True
        )

    def request(self, queue: str, reply_queue: str | None = None, **data: Any) -> str:
        """Publish a request and return the queue for its reply, declared before if not given."""
        reply_queue = reply_queue or self.declare("")
        self.publish(queue, {"message_id": uuid.uuid4().hex, **data, "routing_key": reply_queue})
        return reply_queue

    def take(self, queue: str, within: float | None = None) -> tuple[pika.BasicProperties, bytes]:
        """The next message of a queue, whoever it is for."""
        _, properties, body = eventually(
            lambda: (got := self.channel.basic_get(queue, auto_ack=True))[0] and got,
            within,
            f"a message in {queue!r}",
        )
        return properties, body

    def reply(self, queue: str, within: float | None = None) -> dict[Any, Any]:
        """The next message of a queue, decoded."""
        return payload.decode(self.take(queue, within)[1])

    def ask(self, queue: str, within: float | None = None, **data: Any) -> dict[Any, Any]:
        """Send a request and return its reply."""
        return self.reply(self.request(queue, **data), within)

    def count(self, queue: str) -> tuple[int, int]:
        """Messages that are ready in a queue, and its consumers."""
        found = self.channel.queue_declare(queue, passive=True).method
        return found.message_count, found.consumer_count

    def rests_at(self, queue: str, ready: int, consumers: int | None = None) -> None:
        """Wait until that many messages are ready, and see that it stays so.

        A broker takes settlements in its own time, a quorum queue more so: right after the channel
        that sent them has closed, some may not count yet.
        """

        def found() -> bool:
            count = self.count(queue)
            return count[0] == ready and consumers in (None, count[1])

        eventually(found, what=f"{ready} messages ready in {queue!r}")
        time.sleep(0.1)
        assert found(), f"{queue!r} has {self.count(queue)} (ready, consumers)"

    def has(self, queue: str) -> bool:
        """Whether there is such a queue."""
        try:
            self.count(queue)
        except ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise
            return False
        return True


def death_of(properties: pika.BasicProperties) -> dict[str, Any]:
    """The last death of a dead letter, as RabbitMQ notes it: ``queue``, ``reason``, ``count``, …"""
    assert properties.headers is not None
    deaths: Any = properties.headers["x-death"]
    last: dict[str, Any] = deaths[0]
    return last


def first_login(broker: Broker, within: float = 60.0) -> float:
    """Wait until somebody can log in and use a channel; returns when (`time.monotonic`) that was."""
    deadline = time.monotonic() + within
    while True:
        try:
            pika.BlockingConnection(broker.parameters(socket_timeout=1)).channel().close()
            return time.monotonic()
        except (AMQPError, OSError):
            assert time.monotonic() < deadline, f"nobody could log in within {within} s"
            time.sleep(0.02)
