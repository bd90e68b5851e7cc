"""Publishes that can't leave now: the channel is gone, or their queue isn't there."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pika

from ..connection import Connection
from ..errors import NotConnected
from .channel import Channel, Publish
from .returned import Message, ReturnedReplies

_log = logging.getLogger(__name__)

#: Publishes that are held while there is no connection, and bytes of their bodies.
_MOST_HELD, _MOST_BYTES_HELD = 10_000, 64 * 1024 * 1024


class Outbox:
    """Holds publishes until there is a channel, and returned replies until there is their queue.

    :param channel: the channel that may be published on now, if any
    :param when_answered: calls back when the broker has dealt with all that was sent on a channel
    """

    def __init__(
        self,
        connection: Connection,
        channel: Callable[[], Channel | None],
        when_answered: Callable[[Channel, Callable[[], None]], None],
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._when_answered = when_answered
        self._held: deque[Publish] = deque()
        self._bytes_held = 0
        self._lock = threading.Lock()
        self.returned = ReturnedReplies(self)

    def publish(self, publish: Publish) -> None:
        """Publish when that is possible; from any thread.

        :raises NotConnected: too many wait already
        """
        exchange, queue, body, properties, _ = publish
        if not exchange and queue in self.returned.waiting:
            known = properties or pika.BasicProperties()
            self._connection.call(lambda: self.returned.hold(queue, body, known))
            return
        with self._lock:
            # Looked at under the lock: `send_held`, which comes after there is one, misses nothing.
            channel = self._channel()
            if channel is None:
                if len(self._held) >= _MOST_HELD or self._bytes_held >= _MOST_BYTES_HELD:
                    raise NotConnected(
                        f"{len(self._held)} messages already wait for the connection to the broker"
                    )
                self._held.append(publish)
                self._bytes_held += len(body)
                return
        channel.publish(publish)

    def send_held(self, channel: Channel) -> None:
        """There is a channel again."""
        while channel.is_open:
            with self._lock:
                if not self._held:
                    return
                publish = self._held.popleft()
                self._bytes_held -= len(publish[2])
            channel.publish(publish)

    def on_return(self, _amqp: Any, *returned: Any) -> None:
        """pika's callback for a returned message."""
        self.returned.on_return(*returned)

    # ---- mq_connector.consumer.returned.Sender

    def resend(self, queue: str, messages: list[Message], answered: Callable[[], None]) -> bool:
        """Publish as mandatory, and call back when all that comes back has come back."""
        channel = self._channel()
        if channel is None:
            return False
        for message in messages:
            channel.publish_now(("", queue, message.body, message.properties, True))
        self._when_answered(channel, answered)
        return True

    def declare_reply_queue(self, queue: str) -> None:
        """Declare a queue the way Neon's clients do."""
        channel = self._channel()
        if channel is not None:
            channel.queue_declare(queue)

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run a function on the loop after a while; on the next loop, where this one has just failed."""
        self._connection.call(lambda: self._connection.later(seconds, function))
