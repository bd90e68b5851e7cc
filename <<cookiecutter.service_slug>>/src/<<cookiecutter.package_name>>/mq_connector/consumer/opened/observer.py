"""Observes the messages of one consumer, in order to count them or to make spans."""

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

#: Seconds up to which a callback counts as quick: of these only number and sum are kept.
QUICK = 0.001


class Tally:
    """How long the callbacks of one thread took. Only that thread adds to it; any thread may read it.

    It is told of each callback. Most are quick, and then two numbers grow and no lock is taken.

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
        """Count another callback.

        :param took: seconds
        """
        if took <= QUICK:
            self.quick += 1
            self.seconds += took
        else:
            self.slow(took)


class Observer(Protocol):
    """Observes one consumer from its start on; without an observer nothing is called.

    It isn't called for each message: instead, it replaces the classes that handle them. None of its methods may raise.
    """

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""

    def tally(self) -> Tally | None:
        """That of the thread that calls this, if anybody wants to know."""

    def on_opened(self, opened: OpenedChannel) -> None:
        """Another channel was opened, and nothing has come on it yet; called on the loop."""


class Listener(Protocol):
    """Is told of rare events of one channel's messages; there may be none."""

    def retried(self) -> None:
        """A message will be delivered again later, as its callback has asked for."""

    def rejected(self, requeue: bool) -> None:
        """A callback has rejected a message: back into the queue, or to the dead letters."""

    def failed(self, delivery: Delivery, error: Exception) -> None:
        """A message has failed, and is about to be dead-lettered unless it is settled already."""
