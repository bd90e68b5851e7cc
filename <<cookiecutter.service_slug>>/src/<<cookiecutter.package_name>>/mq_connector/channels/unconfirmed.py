"""What was published on one channel and isn't confirmed yet (rabbitmq.com/docs/confirms)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Generic, TypeVar

from pika.spec import Basic

Item = TypeVar("Item")


class Unconfirmed(Generic[Item]):
    """Numbers what is published on a channel from 1 on, as the broker does.

    It is made with the channel and thrown away with it.
    """

    def __init__(self) -> None:
        self._last_tag = 0
        #: In the order of their numbers.
        self._items: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        """The oldest first."""
        return iter(self._items.values())

    def add(self, item: Item) -> None:
        """Count one more; to be called in the order in which they leave."""
        self._last_tag += 1
        self._items[self._last_tag] = item

    def take(self, frame: Any) -> tuple[list[Item], bool]:
        """Take out what a frame of the broker's is about.

        :param frame: ``basic.ack`` or ``basic.nack``, for one message or for all up to it
        :returns: what it was, the oldest first, and whether the broker has refused it
        """
        last = frame.method.delivery_tag
        if frame.method.multiple:
            tags = list(takewhile(lambda tag: tag <= last, self._items))
        else:
            tags = [last] if last in self._items else []
        return [self._items.pop(tag) for tag in tags], isinstance(frame.method, Basic.Nack)
