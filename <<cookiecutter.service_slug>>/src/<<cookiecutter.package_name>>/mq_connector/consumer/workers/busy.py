"""Who handles one message at a time, and whether it hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..opened import Delivery, OpenedChannel

if TYPE_CHECKING:
    from typing import Any

#: Of the thread itself: a consumer, which is one, says otherwise once it is over.
is_alive = threading.Thread.is_alive


class Busy:
    """One thread, or a place for a task, and what it has in hand.

    :param thread: None for a task's place
    """

    __slots__ = ("began", "delivery", "is_replaced", "late", "thread")

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self.thread: Any = thread
        self.delivery: Delivery | None = None
        self.began = 0.0
        #: The last delivery for which the broker has waited too long.
        self.late: Delivery | None = None
        self.is_replaced = False

    @property
    def is_alive(self) -> bool:
        """Whether it goes on."""
        return self.thread is None or is_alive(self.thread)

    @property
    def hangs(self) -> bool:
        """Whether the broker has given up waiting for what it has in hand."""
        return self.late is not None and self.late is self.delivery


def latest(
    all_of_them: Iterable[Busy], opened: OpenedChannel
) -> Iterator[tuple[Busy, Delivery, float]]:
    """Those that have had a message of a channel in hand for the longest time, which the broker doesn't tell.

    Those of others, which go on, have been in hand for a shorter time.

    :returns: with that message, and for how long, in seconds
    """
    now = time.monotonic()
    busy = []
    for each in all_of_them:
        delivery = each.delivery
        if delivery is not None and delivery.opened is opened and not each.hangs:
            busy.append((each, delivery, now - each.began))
    longest = max((took for *_, took in busy), default=0.0)
    return (each for each in busy if each[2] >= longest / 2)


def all_busy_for(all_of_them: Iterable[Busy]) -> float:
    """Seconds for which each of them has had one message in hand; 0 where one is free, or there is none."""
    now = time.monotonic()
    alive = [each for each in all_of_them if not each.is_replaced and each.is_alive]
    return min((now - each.began if each.delivery else 0.0 for each in alive), default=0.0)


def why_unhealthy(all_of_them: Iterable[Busy], stuck: float) -> str:
    """Why none of them will handle another message, in words; empty if one will, or there is none.

    :param stuck: seconds after which one counts as stuck; 0 for never
    """
    workers = [each for each in all_of_them if not each.is_replaced]
    alive = [each for each in workers if each.is_alive]
    if workers and not alive:
        return "no worker is alive"
    if alive and all(each.hangs for each in alive):
        return "every worker has been in its callback for longer than the broker waits"
    now = time.monotonic()
    if stuck and alive and all(each.delivery and now - each.began > stuck for each in alive):
        return f"every worker has been in its callback for more than {stuck:g} s"
    return ""
