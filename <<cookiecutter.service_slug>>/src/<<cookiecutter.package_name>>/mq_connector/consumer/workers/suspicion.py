"""Finds the message that costs channels, connections, processes or threads, and lets it cost no other.

While there is a suspicion, messages are taken one at a time. One that was in hand alone whenever
something was lost for which it may be to blame is dead-lettered without being tried again; so is one
whose callback hangs.
"""

from __future__ import annotations

from ..opened import Delivery
from ..opened.messages import deliveries_before

#: Losses with the same message alone in hand that make it the culprit.
_STRIKES = 2
#: Times that the broker has waited too long for a message's callback that make it the culprit.
_HANGS = 3
#: Deaths of a process that make the message that it had in hand the culprit.
DEATHS = 3
#: Messages that are taken one at a time after a loss, at the most, and how many more than were in hand: the
#: broker puts those back in its own time, and others may come before.
_LONGEST, _MORE = 200, 20
#: Culprits that are remembered; one of them more is tried again.
_MOST = 1000


class Suspicion:
    """What one consumer knows, from the start of the process on.

    Written on the loop and read by workers, a value at a time.
    """

    def __init__(self) -> None:
        #: Messages that are still to be taken one at a time.
        self._careful_for = _LONGEST
        #: Whether there is something to be said of a message before it is tried; asked for each one, so it
        #: is no property.
        self.is_alert = True
        #: Whether all that a predecessor had in hand has come back once something new comes.
        self._ends_with_news = True
        #: Whether nothing was delivered to this process yet: a predecessor may have died of the first.
        self._is_new = True
        self._strikes: dict[int, int] = {}
        #: Apart from the strikes: half an hour may lie between two, in which all else goes well.
        self._hangs: dict[int, int] = {}

    @property
    def is_careful(self) -> bool:
        """Whether messages are to be taken one at a time."""
        return self._careful_for > 0

    def lost(self, in_hand: int, alone: Delivery | None) -> None:
        """Something was lost for which a message in hand may be to blame.

        :param in_hand: how many there were
        :param alone: the only one, where there was one only
        """
        self._careful_for = max(self._careful_for, min(in_hand + _MORE, _LONGEST))
        self._ends_with_news = False
        self._update()
        if alone is not None:
            _count(self._strikes, alone)

    def hangs(self, delivery: Delivery) -> None:
        """The broker has waited too long for this message, whose callback doesn't return.

        That it was this one is known, so there is no need to take others one at a time.
        """
        _count(self._hangs, delivery)
        self._update()

    def returned(self, delivery: Delivery) -> None:
        """The callback has returned in time."""
        self._hangs.pop(_mark(delivery), None)
        self._update()

    def verdict(self, delivery: Delivery) -> str:
        """Why a message isn't tried again; empty if it is.

        The count of a quorum queue doesn't tell a death from a lost connection. But only a message that
        was in hand alone comes first to a process that has just started.
        """
        first, self._is_new = self._is_new, False
        before = deliveries_before(delivery) if delivery.method.redelivered else None
        if first and before is not None and before >= DEATHS:
            return f"the process has ended {before} times with this message in hand; it isn't tried again"
        hangs = self._hangs.get(_mark(delivery), 0) if self._hangs else 0
        if hangs >= _HANGS:
            self._hangs.pop(_mark(delivery), None)
            self._update()
            return f"the broker has waited {hangs} times in vain for this message; it isn't tried again"
        strikes = self._strikes.get(_mark(delivery), 0) if self._strikes else 0
        if strikes >= _STRIKES:
            self._strikes.pop(_mark(delivery), None)
            return f"the channel was lost {strikes} times with this message in hand; it isn't tried again"
        return ""

    def suspects(self, delivery: Delivery) -> bool:
        """Whether a message is to be handled before another one is taken.

        What came back comes first, where the broker has long known that it was to come back.
        """
        if self._ends_with_news and not delivery.method.redelivered:
            self.relax()
        return self.is_careful

    def passed(self) -> None:
        """A message was handled while we were careful."""
        self._careful_for = max(0, self._careful_for - 1)
        if not self._careful_for:
            self.relax()

    def relax(self) -> None:
        """There is nothing to be careful of; what hangs is known all the same."""
        self._careful_for = 0
        self._strikes.clear()
        self._update()

    def _update(self) -> None:
        self.is_alert = self._careful_for > 0 or bool(self._hangs)


def _count(found: dict[int, int], delivery: Delivery) -> None:
    if len(found) >= _MOST:
        found.clear()
    mark = _mark(delivery)
    found[mark] = found.get(mark, 0) + 1


def _mark(delivery: Delivery) -> int:
    """Tells a message when it comes again; salted, so that no peer can make two alike."""
    return hash((delivery.body, delivery.method.routing_key, delivery.method.exchange))
