"""Threads and tasks that handle one message at a time, and whether they hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...fork import Process
from ...logs import Logger
from ..opened import Delivery, OpenedChannel

if TYPE_CHECKING:
    from typing import Any

_log = Logger(__name__)

#: Seconds before a worker that has failed goes on.
_PAUSE = 0.1
#: The thread's own: a `ConsumerThread` overrides `is_alive`, and says no once it has ended but for callbacks.
is_alive = threading.Thread.is_alive


class Busy:
    """One worker thread, or a place for one task, and the message that it handles.

    :param thread: None for a task's place
    """

    __slots__ = ("began", "calls", "delivery", "is_replaced", "late", "thread", "waits")

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self.thread: Any = thread
        self.delivery: Delivery | None = None
        self.began = 0.0
        #: Whether it runs what is no message's callback, such as the service's `error_func`.
        self.calls = False
        #: The last delivery for which the broker has waited too long.
        self.late: Delivery | None = None
        self.is_replaced = False
        #: Whether its callback has returned, and it waits until there is room for what that has left to be awaited.
        self.waits = False

    @property
    def is_alive(self) -> bool:
        """Whether it goes on."""
        return self.thread is None or is_alive(self.thread)

    def is_late_with(self, delivery: Delivery) -> None:
        """The broker has waited too long for a message that this one handles."""
        self.late = delivery
        delivery.opened.note_late(delivery.tag)

    def call(self, function: Callable[[], object]) -> None:
        """Run what is no message's callback."""
        self.began, self.calls = time.monotonic(), True
        try:
            function()
        finally:
            self.calls = False

    def busy_for(self, now: float) -> float:
        """Seconds for which it has been at what it does; 0 if it is free."""
        return now - self.began if self.calls or self.delivery else 0.0

    @property
    def hangs(self) -> bool:
        """Whether the broker has waited too long for the message that it handles."""
        return self.late is not None and self.late is self.delivery


def keep_on(work: Callable[[Busy], None], busy: Busy, process: Process) -> None:
    """Have a worker work, and again where anything but its callback fails: a thread that ends is a service that idles.

    Its message goes back to the queue, in case that is why.

    :param process: the worker's; what fails in a child that was forked from it ends there
    """
    while True:
        try:
            work(busy)
            return
        except BaseException:
            if process.forked:
                raise
            _log.exception("a worker has failed beside its callback; it goes on")
            delivery, busy.delivery = busy.delivery, None
            if delivery is not None:
                delivery.opened.reject(delivery.tag, requeue=True)
        time.sleep(_PAUSE)


def latest(
    all_of_them: Iterable[Busy], opened: OpenedChannel
) -> Iterator[tuple[Busy, Delivery, float]]:
    """Those that have handled a message of a channel for the longest time.

    The broker doesn't say for which message it has waited too long: it is among those that take longest. The others
    go on.

    :returns: each with its message, and for how long, in seconds
    """
    now = time.monotonic()
    busy = []
    for each in all_of_them:
        if each.waits:  # asked first: when that ends, the message has gone before
            continue
        delivery = each.delivery
        if delivery is not None and delivery.opened is opened and not each.hangs:
            busy.append((each, delivery, now - each.began))
    longest = max((took for *_, took in busy), default=0.0)
    return (each for each in busy if each[2] >= longest / 2)


def all_busy_for(all_of_them: Iterable[Busy]) -> float:
    """Seconds for which each of them has been busy; 0 if one is free, or there is none."""
    now = time.monotonic()
    alive = [each for each in all_of_them if not each.is_replaced and each.is_alive]
    return min((each.busy_for(now) for each in alive), default=0.0)


def why_unhealthy(stuck: float, *kinds: Iterable[Busy]) -> str:
    """In words, why none of a kind will do anything more; empty if one of each will, where there are any.

    :param stuck: seconds after which one counts as stuck; 0 for never
    """
    return next(filter(None, (_why_unhealthy(list(each), stuck) for each in kinds)), "")


def _why_unhealthy(all_of_them: Sequence[Busy], stuck: float) -> str:
    workers = [each for each in all_of_them if not each.is_replaced]
    alive = [each for each in workers if each.is_alive]
    if workers and not alive:
        return "no worker is alive"
    if alive and all(each.hangs for each in alive):
        return "every worker has been in its callback for longer than the broker waits"
    now = time.monotonic()
    if stuck and alive and all(each.busy_for(now) > stuck for each in alive):
        return f"every worker has been in its callback for more than {stuck:g} s"
    return ""
