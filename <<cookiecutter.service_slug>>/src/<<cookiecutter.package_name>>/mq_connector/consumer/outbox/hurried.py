"""The outbox of a callback that runs on the event loop, where nothing may wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...connection.scratch import Result
from ..opened import Confirms, Delivery, Message, OpenedChannel
from .outbox import Outbox


class Hurried:
    """Stands in the place of an outbox, for one callback.

    What might have to wait for room is published by another thread, and so is all that the callback
    publishes after it. The callback's message isn't settled before that.

    :param call: calls a function on that thread
    """

    def __init__(self, outbox: Outbox, call: Callable[[Callable[[], object]], object]) -> None:
        self.connection = outbox.connection
        self.complaints = outbox.complaints
        self._outbox = outbox
        self._call = call
        self._is_behind = False

    def publish(
        self, opened: OpenedChannel, message: Message, delivery: Delivery | None = None
    ) -> None:
        """As `Outbox.publish`, at once."""
        outbox = self._outbox
        if delivery is None or not (self._is_behind or outbox.may_have_to_wait(opened)):
            outbox.publish(opened, message, delivery)
            return
        opened.encode(message)  # so that the caller gets the error of what can't be encoded
        self._publish_behind(opened, message.kept(), delivery)

    def wait_for(self, result: Result) -> None:
        """Hold back all that is published from now on until a declaration is answered, on which it may depend."""
        if not result.is_set:
            self._is_behind = True
            self._call(result.wait_until_over)

    def _publish_behind(self, opened: OpenedChannel, message: Message, delivery: Delivery) -> None:
        self._is_behind = True
        confirms = delivery.confirms = delivery.confirms or Confirms(self.connection.call)
        confirms.expect()

        def publish() -> None:
            error: Any = None
            try:
                self._outbox.publish(opened, message, delivery)
            except Exception as raised:
                error = raised
            confirms.outcome(error)

        self._call(publish)
