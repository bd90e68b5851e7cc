"""Who has a consumption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..connection.scratch import Done
from ..errors import MQError
from .opened import OpenedChannel

if TYPE_CHECKING:
    from .consumption import Consumption


class Owner(Protocol):
    """Who wants the queue consumed; called on the loop."""

    queue: str

    def ready_queue(self, opened: OpenedChannel, done: Done) -> None:
        """Find the queue or make it."""

    def on_change(self, consumption: Consumption) -> None:
        """It began to consume, or stopped to."""

    def complain(self, what: str) -> None:
        """Log what may repeat itself."""

    def on_failed(self, consumption: Consumption, error: MQError) -> None:
        """The channel is of no use, for this reason."""

    def on_ended(self, consumption: Consumption) -> None:
        """It was closed as asked for."""
