"""The queue that dead letters rest in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pika
from pika.frame import Method
from pika.spec import Basic

from ...connection.scratch import Operation
from ...consumer.outbox.dead_letters import DEAD
from ...errors import NotConnected
from .letter import DeadLetter

if TYPE_CHECKING:
    from ..session import Session

#: What becomes of letters whose connection has gone while somebody looks at them.
LOST = (
    "the connection was lost meanwhile, so the letters that were taken are back in the dead-letter queue, and this "
    "ends here: run it again"
)
#: Comes of what can't be done any more, as the channel isn't the same.
_GONE = object()


class DeadLetterQueue:
    """Takes messages out of a dead-letter queue, one by one, for as long as it is open.

    What was taken and not removed goes back when the connection is closed. So it ends with the channel that it began
    on: on the next one the same letters come again, and a delivery tag means another.
    """

    def __init__(self, session: Session, queue: str) -> None:
        self._session = session
        self._channel: pika.channel.Channel | None = None
        self._done: Callable[[Any], None] = lambda _: None
        self.name = f"{queue}{DEAD}"

    def __iter__(self) -> Iterator[DeadLetter]:
        """All messages that are there now, oldest first; not those that come while we look.

        :raises NotConnected: the connection was lost meanwhile
        """
        left: int | None = None
        while left != 0:
            letter = self._do(self._get)
            if letter is None:
                return
            left = letter.behind if left is None else left - 1
            yield letter

    def remove(self, letter: DeadLetter) -> None:
        """The message is safe elsewhere.

        :raises NotConnected: the connection on which it came was lost
        """

        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            if channel is not self._channel:
                done(_GONE)
                return
            channel.basic_ack(letter.delivery_tag)
            # An ack isn't answered; what is sent behind it is.
            channel.basic_qos(callback=done)

        self._do(operation)

    def _do(self, operation: Operation) -> Any:
        result = self._session.do(operation)
        if result is _GONE:
            raise NotConnected(LOST)
        return result

    def _get(self, channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
        """Take the next one, past pika: it reads the properties at once, and one that it can't read
        would cost the connection."""
        self._done = done
        transport = self._session.link.transport
        if self._channel is None:
            self._channel = channel
            # pika looks through all callbacks whenever one is added: so there is one for all messages.
            channel.add_callback(lambda _: self._done(None), [Basic.GetEmpty], one_shot=False)
            transport.reader.attach(channel.channel_number, self)
        elif channel is not self._channel:
            done(_GONE)
            return
        transport.send([Method(channel.channel_number, Basic.Get(queue=self.name)).marshal()])

    # ---- on the loop: mq_connector.connection.wire.deliveries.Sink

    def deliver(self, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """The next message has come."""
        self._done(DeadLetter(method.delivery_tag, properties, body, method.message_count))

    def closing(self) -> None:
        """The broker closes the channel; whoever waits is told by pika."""
