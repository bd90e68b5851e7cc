"""How many messages are worth having in hand."""

from __future__ import annotations

from collections.abc import Callable

from ...config import Limits

#: Seconds of work that are worth having in hand, and messages at the most: quick callbacks get no faster
#: with more, and what one service has in hand no other can take.
_IN_HAND, _MOST_IN_HAND = 0.2, 200
#: Messages over which the time of a callback is averaged; and over how many for what is usual, as two or three
#: in a row may well have waited for the processor, or for the interpreter's lock.
_WEIGHT, _USUAL = 8, 64
#: Messages that are told of together, and seconds after which fewer are.
TOGETHER, SOON = 8, 0.01


class Pace:
    """Measures how long a callback takes, unless somebody has said how many messages are to be in hand.

    :param on_change: called now and then, when another number of messages may be better
    """

    def __init__(self, limits: Limits, on_change: Callable[[], None]) -> None:
        self._workers = limits.workers
        self._by_operator = limits.prefetch or 0
        self._on_change = on_change
        #: Messages that the operator or a handler wants to be in hand; 0 for as many as are best.
        self.said = self._by_operator
        #: Seconds that the callback takes, as a moving average; 0 before the first time.
        self.average = 0.0
        #: The same over more of them. Begins at 0, since the first ones say little.
        self.usual = 0.0
        self._until_look = 0
        #: With fewer messages in hand some workers would have nothing to do.
        self.least = self._fewest

    def say(self, messages: int) -> None:
        """A handler says how many, 0 for as many as are best; the operator's word counts more."""
        if messages != self.said and not self._by_operator:
            self.said = messages
            self.least = self._fewest
            self._on_change()

    def wanted(self, waiting: int) -> int:
        """Messages that are to be in hand: as many as are handled in a short time.

        :param waiting: messages in hand that occupy no worker, as they wait for their retry
        """
        if self.said:
            return self.said
        least = 2 * self._workers
        handled = int(_IN_HAND * self._workers / self.average) if self.average else 0
        # Twice, so that a change comes before all that is in hand waits.
        return min(max(least, handled) + 2 * waiting, max(_MOST_IN_HAND, least))

    def note(self, took: float, messages: int = 1) -> None:
        """So many callbacks took that many seconds in all."""
        average, mean = self.average, took / messages
        old = (1 - 1 / _WEIGHT) ** messages if average else 0.0
        self.average = mean + (average - mean) * old
        self.usual = mean + (self.usual - mean) * (1 - 1 / _USUAL) ** messages
        self._until_look -= messages
        if self._until_look < 0:
            self._until_look = _WEIGHT
            self._on_change()

    @property
    def _fewest(self) -> int:
        enough = 2 * self._workers
        return min(enough, self.said or enough)
