"""Which prefetch is best: how many messages to have in hand."""

from __future__ import annotations

from collections.abc import Callable

from ...config import Limits

#: Seconds of work to have in hand, and messages at the most: quick callbacks get no faster with more, and what
#: one process has in hand no other can take.
_IN_HAND, _MOST_IN_HAND = 0.2, 200
#: Messages over which `Pace.average` and `Pace.usual` are taken; the second is longer, as two or three callbacks in
#: a row may have waited for the processor, or for the interpreter's lock.
_WEIGHT, _USUAL = 8, 64
#: Messages that a worker notes together, and seconds of work after which it notes fewer.
TOGETHER, SOON = 8, 0.01


class Pace:
    """Measures how long a callback takes, and says which prefetch is best, unless the operator or a handler has.

    :param on_change: called now and then, when another prefetch may be better
    """

    def __init__(self, limits: Limits, on_change: Callable[[], None]) -> None:
        self._workers = limits.workers
        self._by_operator = limits.prefetch or 0
        self._on_change = on_change
        #: The prefetch that the operator or a handler wants; 0 for the best one.
        self.prefetch = self._by_operator
        #: Seconds that the callback takes, as a moving average; 0 before the first time.
        self.average = 0.0
        #: The same over more callbacks. Begins at 0, since the first ones say little.
        self.usual = 0.0
        self._until_look = 0
        #: With fewer messages in hand some workers would have nothing to do.
        self.least = self._fewest

    def set_prefetch(self, messages: int) -> None:
        """A handler asks for a prefetch, 0 for the best one; the operator's (`MQ_PREFETCH`) has precedence."""
        if messages != self.prefetch and not self._by_operator:
            self.prefetch = messages
            self.least = self._fewest
            self._on_change()

    def wanted(self, waiting: int) -> int:
        """Messages that are to be in hand: as many as are handled in a short time.

        :param waiting: messages in hand that occupy no worker, as they wait for their retry
        """
        if self.prefetch:
            return self.prefetch
        least = 2 * self._workers
        handled = int(_IN_HAND * self._workers / self.average) if self.average else 0
        # Twice, so that the prefetch grows before all messages in hand wait for their retry.
        return min(max(least, handled) + 2 * waiting, max(_MOST_IN_HAND, least))

    def note(self, took: float, messages: int = 1) -> None:
        """Note how long callbacks took.

        :param took: seconds, for all of them
        :param messages: how many
        """
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
        return min(enough, self.prefetch or enough)
