"""Replaces the consumer by another one, so that another prefetch counts."""

from __future__ import annotations

from collections.abc import Callable

import pika

from ...connection.link import Link
from .channel import OpenedChannel

#: Seconds between two looks at whether a consumer has all that it gets, and how often it is looked.
_STEP, _LOOKS = 0.003, 10


class Replacement:
    """Cancels a consumer, for another to follow it; two at a time would get the messages in no certain order.

    What is on its way to a consumer when it is cancelled is delivered again, behind others. So it is cancelled once
    it has as many messages as its prefetch allows; if there aren't so many, it doesn't need a larger prefetch either.
    Meanwhile the broker isn't told of what is settled, so that it sends no more. Used on the loop, until the consumer
    is cancelled or stays.

    :param amqp: pika's channel
    :param consumer_tag: the present consumer's
    :param prefetch: the present consumer's
    :param began_at: tag of the last delivery before the present consumer was made
    :param on_end: called with whether the consumer was cancelled; otherwise it stays
    """

    def __init__(
        self,
        link: Link,
        amqp: pika.channel.Channel,
        opened: OpenedChannel,
        consumer_tag: str,
        prefetch: int,
        began_at: int,
        on_end: Callable[[bool], None],
    ) -> None:
        self._link = link
        self._amqp = amqp
        self._opened = opened
        self._consumer_tag = consumer_tag
        self._prefetch = prefetch
        self._on_end = on_end
        #: Whether the consumer has been cancelled, which can't be called off.
        self._is_cancelled = False
        self._is_off = False
        in_hand = opened.hold()
        self._in_hand = sum(tag > began_at for tag in in_hand)
        self._held_at = opened.last_tag

    @property
    def taken(self) -> int:
        """The consumer's messages that are in hand, as far as the broker knows."""
        return self._in_hand + self._opened.last_tag - self._held_at

    def begin(self) -> None:
        """Cancel the consumer, at once or soon."""
        self._look(_LOOKS)

    def hurry(self) -> None:
        """Cancel it at once, as too much is coming to it; what is on its way is delivered again."""
        if not self._is_cancelled and not self._is_off and self._opened.is_open:
            self._cancel()

    def call_off(self) -> bool:
        """Leave the consumer as it is.

        :returns: False where it is too late for that
        """
        if self._is_cancelled:
            return False
        self._is_off = True
        self._opened.release()
        return True

    def _look(self, looks: int) -> None:
        if self._is_off or self._is_cancelled or not self._opened.is_open:
            return
        if self.taken >= self._prefetch:
            self._cancel()
        elif looks:
            self._link.later(_STEP, lambda: self._look(looks - 1))
        else:
            self.call_off()
            self._on_end(False)

    def _cancel(self) -> None:
        self._is_cancelled = True
        self._amqp.basic_cancel(self._consumer_tag, callback=lambda _: self._on_cancelled())

    def _on_cancelled(self) -> None:
        self._opened.release()
        self._on_end(True)
