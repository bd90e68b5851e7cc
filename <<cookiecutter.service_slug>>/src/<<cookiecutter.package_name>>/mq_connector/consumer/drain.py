"""The end of a consumption: messages in hand are finished, and those that nobody has begun go back to the queue."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..connection.link import Link
from ..logs import Logger
from .handling import Handling
from .opened import OpenedChannel

_log = Logger(__name__)

#: Seconds that the broker gets to answer when a channel is closed politely.
_CLOSE_PATIENCE = 2.0
#: Seconds between two looks at whether the drain is over.
_STEP = 0.01


class Drain:
    """Waits on the loop, from the wish to stop until the channel can be closed.

    :param queue: where the messages are from
    :param when_answered: calls back when the broker has dealt with all that was sent so far
    :param close: called when all is done, or time is up
    """

    def __init__(
        self,
        link: Link,
        opened: OpenedChannel,
        handling: Handling,
        queue: str,
        when_answered: Callable[[Callable[[], None]], None],
        close: Callable[[], None],
    ) -> None:
        self._link = link
        self._opened = opened
        self._workers, self._outbox = handling.workers, handling.outbox
        self._queue = queue
        self._when_answered = when_answered
        self._close = close
        #: When it must end (`time.monotonic`).
        self._deadline = math.inf
        #: Whether the broker has dealt with all that the last messages in hand have caused.
        self._answered = False
        self._had_some = opened.outstanding > 0
        #: Whether messages that were in hand are settled, but the broker may not have heard of it by the deadline.
        self.is_unheard = False

    def end_by(self, deadline: float) -> None:
        """Close at the deadline in any case (`time.monotonic`); of several, the earliest counts."""
        self._deadline = min(self._deadline, deadline)
        self._link.later(max(0.0, deadline - time.monotonic()), self._check_deadline)

    @property
    def patience(self) -> float:
        """Seconds that the broker gets to answer when the channel is closed politely; past the deadline it has had its
        time."""
        return max(0.0, min(_CLOSE_PATIENCE, self._deadline - time.monotonic()))

    def begin(self) -> None:
        """No more deliveries come; wait for those in hand."""
        returned = self._workers.hand_back()
        if returned:
            _log.info("back to %r go messages that nobody has begun: %d", self._queue, returned)
        self._wait()

    def _check_deadline(self) -> None:
        if self._deadline > time.monotonic():
            return
        if self._opened.is_open and not (self._opened.outstanding or self._outbox.is_busy):
            why = self._link.blocked or "the broker hasn't answered since the stop was asked for"
            _log.warning("%s; what it hasn't heard of settled, it delivers again", why)
            self.is_unheard = self._had_some
        self._close()

    def _wait(self) -> None:
        if not self._opened.is_open:
            return
        self._opened.retries.put_back()  # those too that a handler has just asked for
        busy = self._opened.outstanding or self._outbox.is_busy
        if busy:
            self._answered = False
            self._link.later(_STEP, self._wait)
        elif self._answered:
            self._close()
        else:
            # The last reply may come back as unroutable: before the answer to a method sent behind it.
            self._when_answered(self._on_answered)

    def _on_answered(self) -> None:
        self._answered = True
        self._wait()
