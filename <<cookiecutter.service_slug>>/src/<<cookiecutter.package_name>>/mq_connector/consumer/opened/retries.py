"""Messages of one opened channel that wait for their retry; they count as in hand meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from ...connection.link import Link


class Retries:
    """Puts messages back when their pause is over. Messages are added from any thread, all else is for the loop.

    :param reject: puts one back, by its tag
    """

    def __init__(self, link: Link, reject: Callable[[int, bool], object]) -> None:
        self._link = link
        self._reject = reject
        self._tags: set[int] = set()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._tags)

    def __contains__(self, tag: int) -> bool:
        """Whether the message with this tag waits."""
        return tag in self._tags

    def add(self, tag: int, seconds: float) -> None:
        """Have a message wait for so many seconds."""
        self._tags.add(tag)
        self._link.call(lambda: self._link.later(seconds, lambda: self._put_back({tag})))

    def put_back(self) -> None:
        """Put all waiting messages back at once; for the end of the consumer."""
        self._put_back(set(self._tags))

    def _put_back(self, tags: set[int]) -> None:
        for tag in tags & self._tags:
            self._tags.discard(tag)
            self._reject(tag, True)
