"""Observes the messages of one consumer, in order to count them or to make spans."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...connection import Connection
    from ..outbox import Outbox
    from ..workers import Workers
    from .channel import OpenedChannel
    from .messages import Delivery


class Observer(Protocol):
    """Observes one consumer from its start on; without an observer nothing is called.

    Only `note` is called for each message: what else is to happen for each, it puts in the place of the
    workers' own methods and classes. None of its methods may raise.
    """

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""

    @property
    def note(self) -> Callable[[float], object] | None:
        """Gets the seconds that each callback took, from any thread; None where nobody wants to know."""

    def sort_in(self) -> None:
        """Called by a worker after a few messages, so that what was noted doesn't grow."""

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
