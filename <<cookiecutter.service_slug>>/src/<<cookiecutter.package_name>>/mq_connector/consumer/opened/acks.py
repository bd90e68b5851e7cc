"""Which deliveries of a channel are settled, and the fewest frames that tell the broker so."""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict


class Acks:
    """Book of one channel's delivery tags; whoever owns the channel guards it with a lock.

    Tags count up from 1 on each channel. Acknowledgements below the lowest outstanding delivery
    become one ``basic.ack(multiple=True)``; those behind it are sent one by one. Only what is
    outstanding or not yet told is remembered, so a delivery that stays in hand costs nothing.
    """

    def __init__(self) -> None:
        #: The last tag that was delivered; assigned to as one arrives, which needs no lock.
        self.highest = 0
        self._top = 0  # the highest tag that is settled; above it all are outstanding
        # Outstanding below it, in ascending order. A plain dict that loses its first items looks
        # through the places of all that were before it when asked for the first.
        self._holes: OrderedDict[int, None] = OrderedDict()
        self._acked: list[int] = []  # acknowledged, and the broker hasn't been told
        #: Acknowledgements that the broker hasn't been told of.
        self.pending = 0
        self._late: set[int] = set()  # not settled, but the broker has taken them back

    @property
    def outstanding(self) -> int:
        """Deliveries that nobody has settled yet, and that are to be."""
        return self.highest - self._top + len(self._holes) - len(self._late)

    def is_settled(self, tag: int) -> bool:
        """Whether a delivery was settled, or never arrived on this channel."""
        return tag > self.highest or (tag <= self._top and tag not in self._holes)

    def ack(self, tag: int, multiple: bool = False) -> bool:
        """Note an acknowledgement.

        :param multiple: all outstanding deliveries up to ``tag``, as in AMQP; tag 0 then means all
        :returns: False where there is nothing to settle: a second time, or a tag of another channel
        """
        if multiple:
            tags = self.unsettled(tag)
            for each in tags:
                self.ack(each)
            return bool(tags)
        if tag == self._top + 1 <= self.highest:
            self._top = tag  # most come in order
            if self._late:
                self._late.discard(tag)
        elif not self._settle(tag):
            return False
        self._acked.append(tag)
        self.pending += 1
        return True

    def unsettled(self, tag: int) -> list[int]:
        """Outstanding deliveries up to ``tag``; tag 0 means all, as in AMQP."""
        last = self.highest if tag == 0 else min(tag, self.highest)
        holes = [each for each in self._holes if each <= last]
        return [*holes, *range(self._top + 1, last + 1)]

    def note_late(self, tag: int) -> None:
        """Note that the broker has taken a delivery back, which may be settled all the same."""
        if not self.is_settled(tag):
            self._late.add(tag)

    def note_rejection(self, tag: int) -> bool:
        """Note a rejection, which the caller sends by itself; returns as `ack` does."""
        return self._settle(tag)

    def take(self) -> list[tuple[int, bool]]:
        """What to acknowledge now, as (delivery tag, multiple).

        Rejections noted by `note_rejection` must have been sent before: ``multiple`` covers their tags.
        """
        acked, self._acked = self._acked, []
        self.pending = 0
        if not self._holes:
            return [(max(acked), True)] if acked else []
        acked.sort()
        below = bisect(acked, next(iter(self._holes)))
        together = [(acked[below - 1], True)] if below else []
        return together + [(tag, False) for tag in acked[below:]]

    def _settle(self, tag: int) -> bool:
        self._late.discard(tag)
        following = self._top + 1
        if tag < following:
            if tag not in self._holes:
                return False
            del self._holes[tag]
            return True
        if tag > self.highest:
            return False
        if tag != following:
            for hole in range(following, tag):
                self._holes[hole] = None
        self._top = tag
        return True
