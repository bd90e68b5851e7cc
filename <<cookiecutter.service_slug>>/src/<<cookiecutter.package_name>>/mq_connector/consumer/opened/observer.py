"""Who watches the messages of one consumer, in order to count them or to make spans of them."""

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
    """Watches from the start on; mostly nobody does, and then nothing is called.

    What happens to each message is not told: the observer puts something in the place of what does it.
    Nothing of it may raise.
    """

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""

    def observe(self) -> Callable[[float], None]:
        """What one worker's thread calls with the seconds that each callback took."""

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
