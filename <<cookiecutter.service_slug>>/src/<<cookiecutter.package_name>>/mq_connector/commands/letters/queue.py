"""The queue that dead letters rest in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pika
from pika.frame import Method
from pika.spec import Basic

from ...consumer.outbox.dead_letters import DEAD
from .letter import DeadLetter

if TYPE_CHECKING:
    from ..session import Session


class DeadLetterQueue:
    """Takes messages out of a dead-letter queue, one by one, for as long as it is open.

    What was taken and not removed goes back when the connection is closed.
    """

    def __init__(self, session: Session, queue: str) -> None:
        self._session = session
        self._channel: pika.channel.Channel | None = None
        self._done: Callable[[Any], None] = lambda _: None
        self.name = f"{queue}{DEAD}"

    def __iter__(self) -> Iterator[DeadLetter]:
        """All messages that are there now, oldest first; not those that come while we look."""
        left: int | None = None
        while left != 0:
            letter = self._session.do(self._get)
            if letter is None:
                return
            left = letter.behind if left is None else left - 1
            yield letter

    def remove(self, letter: DeadLetter) -> None:
        """The message is safe elsewhere."""

        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            channel.basic_ack(letter.delivery_tag)
            # An ack isn't answered; what is sent behind it is.
            channel.basic_qos(callback=done)

        self._session.do(operation)

    def _get(self, channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
        """Take the next one, past pika: it reads the properties at once, and one that it can't read
        would cost the connection."""
        self._done = done
        transport = self._session.link.transport
        if channel is not self._channel:
            self._channel = channel
            # pika looks through all callbacks whenever one is added: so there is one for all messages.
            channel.add_callback(lambda _: self._done(None), [Basic.GetEmpty], one_shot=False)
            transport.reader.attach(channel.channel_number, self)
        transport.send([Method(channel.channel_number, Basic.Get(queue=self.name)).marshal()])

    # ---- on the loop: mq_connector.connection.wire.deliveries.Sink

    def deliver(self, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """The next message has come."""
        self._done(DeadLetter(method.delivery_tag, properties, body, method.message_count))

    def closing(self) -> None:
        """The broker closes the channel; whoever waits is told by pika."""
