"""Which deliveries of a channel are settled, and the fewest frames that tell the broker so."""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict


class Acks:
    """Book of one channel's delivery tags; whoever owns the channel guards it with a lock.

    Tags count up from 1 on each channel. A settled run from the lowest tag on becomes one
    ``basic.ack(multiple=True)``; what is settled behind a gap is acknowledged one by one.

    It remembers the deliveries that are outstanding, which the prefetch bounds, instead of those
    that are settled: behind a gap, as a callback that hangs leaves one, these only become more.
    """

    def __init__(self) -> None:
        self._highest = 0  # the last tag that was delivered
        self._top = 0  # the highest tag that was settled
        # The outstanding tags below `_top`, ascending; a plain dict finds its first in linear time.
        self._gaps: OrderedDict[int, None] = OrderedDict()
        self._acked: list[int] = []
        #: Acknowledgements that the broker hasn't been told of, the length of `_acked`.
        self.pending = 0


    @property
    def outstanding(self) -> int:
        """Deliveries that nobody has settled yet."""
        return self._highest - self._top + len(self._gaps)

    def delivered(self, tag: int) -> None:
        """A delivery has arrived; a single assignment, so this one needs no lock."""
        self._highest = tag

    def is_settled(self, tag: int) -> bool:
        """Whether a delivery was settled, or never arrived on this channel."""
        return tag > self._highest or (tag <= self._top and tag not in self._gaps)

    def ack(self, tag: int, multiple: bool = False) -> bool:
        """Note an acknowledgement.

        :param multiple: all outstanding deliveries up to ``tag``, as in AMQP; tag 0 then means all
        :returns: False where there is nothing to settle: a second time, or a tag of another channel
        """
        if multiple:
            tags = self.unsettled(tag)
            for each in tags:
                self._settle(each)
            self._acked += tags
            self.pending += len(tags)
            return bool(tags)
        if not self._settle(tag):
            return False
        self._acked.append(tag)
        self.pending += 1
        return True

    def unsettled(self, tag: int) -> list[int]:
        """Outstanding deliveries up to ``tag``; tag 0 means all, as in AMQP."""
        last = self._highest if tag == 0 else min(tag, self._highest)
        return [each for each in self._gaps if each <= last] + list(range(self._top + 1, last + 1))

    def told(self, tag: int) -> bool:
        """Note a rejection, which the caller sends by itself; returns as `ack` does."""
        return self._settle(tag)

    def take(self) -> list[tuple[int, bool]]:
        """What to acknowledge now, as (delivery tag, multiple).

        Rejections noted by `told` must have been sent before: ``multiple`` covers their tags.
        """
        acked, self._acked = self._acked, []
        self.pending = 0
        if not self._gaps:
            return [(max(acked), True)] if acked else []
        acked.sort()
        run = bisect(acked, next(iter(self._gaps)))
        acks = [(acked[run - 1], True)] if run else []
        return acks + [(tag, False) for tag in acked[run:]]

    def _settle(self, tag: int) -> bool:
        if tag <= self._top:
            if tag not in self._gaps:
                return False
            del self._gaps[tag]
            return True
        if tag > self._highest:
            return False
        following = self._top + 1
        if tag != following:  # in order is the usual case, and pays for no range
            for gap in range(following, tag):
                self._gaps[gap] = None
        self._top = tag
        return True
