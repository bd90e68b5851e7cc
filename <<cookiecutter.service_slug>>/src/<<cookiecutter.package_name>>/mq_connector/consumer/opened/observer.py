"""Who watches the messages of one consumer, in order to count them or to make spans of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...connection import Connection
    from ..outbox import Outbox
    from ..workers import Workers
    from .channel import OpenedChannel
    from .messages import Delivery

#: Seconds up to which callbacks are told from each other by nothing but their sum.
QUICK = 0.001


class Tally:
    """How long the callbacks of one thread took: the one that makes it, which alone adds to it; anybody may look.

    Most callbacks are quick, and then two numbers grow and no lock is taken: it is told of each.

    :param slow: gets the seconds of each that took longer than `QUICK`
    """

    __slots__ = ("quick", "seconds", "slow", "thread")

    def __init__(self, slow: Callable[[float], object]) -> None:
        self.slow = slow
        self.thread = threading.current_thread()
        #: How many were quick, and what these took together.
        self.quick = 0
        self.seconds = 0.0

    def add(self, took: float) -> None:
        """Another one is over.

        :param took: seconds
        """
        if took <= QUICK:
            self.quick += 1
            self.seconds += took
        else:
            self.slow(took)


class Observer(Protocol):
    """Watches from the start on; mostly nobody does, and then nothing is called.

    What happens to each message is not told: the observer puts something in the place of what does it.
    Nothing of it may raise.
    """

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""

    def tally(self) -> Tally | None:
        """That of the thread that calls this, if anybody wants to know."""

    def on_opened(self, opened: OpenedChannel) -> None:
        """There is another channel, on which nothing has come yet; on the loop."""


class Listener(Protocol):
    """Is told what is rare of one channel's messages; mostly there is none."""

    def retried(self) -> None:
        """A message comes again later, as its callback has asked for."""

    def rejected(self, requeue: bool) -> None:
        """A callback has rejected a message: back into the queue, or to the dead letters."""

    def failed(self, delivery: Delivery, error: Exception) -> None:
        """A message has failed, and is about to be dead-lettered unless it is settled already."""
