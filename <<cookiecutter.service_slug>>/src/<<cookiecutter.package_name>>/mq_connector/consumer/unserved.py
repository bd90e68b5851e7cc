"""A consumer that the broker lists and sends nothing, though messages wait."""

from __future__ import annotations

import time

from pika.spec import Queue

from .opened import OpenedChannel

#: Seconds for which nothing must have come, while messages waited.
PATIENCE = 10.0


class Unserved:
    """Compares what is seen each time that somebody asks whether a consumer is well.

    RabbitMQ 3.10 cancels no consumer whose quorum queue is deleted and at once made again by somebody else: what it
    then sends to that consumer gets lost between queue and channel, until the channel is closed.
    """

    def __init__(self) -> None:
        self._channel: OpenedChannel | None = None
        #: Tag of the last delivery, and since when it has been the last (`time.monotonic`).
        self._last_tag = 0
        self._since = 0.0
        #: Whether a new channel was wanted, and nothing has come on one since: of a stream's messages most are old.
        self._is_in_vain = False

    def seen(self, channel: OpenedChannel, queue: Queue.DeclareOk) -> int:
        """Look once more.

        :param queue: what the broker says of it
        :returns: how many messages wait in vain, where a new channel may help; else 0
        """
        # Beside other consumers it may be one that only waits, as where one is the single active one.
        waits = queue.message_count if queue.consumer_count == 1 else 0
        now, last_tag = time.monotonic(), channel.last_tag
        if not waits or channel.outstanding:
            self._channel = None
        elif channel is not self._channel or last_tag != self._last_tag:
            self._channel, self._last_tag, self._since = channel, last_tag, now
        if last_tag:
            self._is_in_vain = False
        if self._channel is None or self._is_in_vain or now - self._since < PATIENCE:
            return 0
        self._is_in_vain = True
        return waits
