"""Which deliveries of a channel are settled, and the fewest frames that tell the broker so."""

from __future__ import annotations

_ACKED, _TOLD = 1, 2


class Acks:
    """Book of one channel's delivery tags; whoever owns the channel guards it with a lock.

    Tags count up from 1 on each channel. A settled run from the lowest tag on becomes one
    ``basic.ack(multiple=True)``; what is settled behind a gap is acknowledged one by one.
    """

    def __init__(self) -> None:
        self._lowest = 1  # every tag below is settled
        self._highest = 0  # the last tag that was delivered
        self._settled: dict[int, int] = {}
        #: Acknowledgements that the broker hasn't been told of.
        self.pending = 0

    @property
    def outstanding(self) -> int:
        """Deliveries that nobody has settled yet."""
        return self._highest - self._lowest + 1 - len(self._settled)

    def delivered(self, tag: int) -> None:
        """A delivery has arrived."""
        self._highest = tag

    def is_settled(self, tag: int) -> bool:
        """Whether a delivery was settled, or never arrived on this channel."""
        return tag < self._lowest or tag > self._highest or tag in self._settled

    def ack(self, tag: int, multiple: bool = False) -> bool:
        """Note an acknowledgement.

        :param multiple: all outstanding deliveries up to ``tag``, as in AMQP; tag 0 then means all
        :returns: False where there is nothing to settle: a second time, or a tag of another channel
        """
        if multiple:
            tags = self.unsettled(tag)
            for each in tags:
                self._settled[each] = _ACKED
            self.pending += len(tags)
            return bool(tags)
        if self.is_settled(tag):
            return False
        self._settled[tag] = _ACKED
        self.pending += 1
        return True

    def unsettled(self, tag: int) -> list[int]:
        """Outstanding deliveries up to ``tag``; tag 0 means all, as in AMQP."""
        last = self._highest if tag == 0 else min(tag, self._highest)
        return [each for each in range(self._lowest, last + 1) if each not in self._settled]

    def told(self, tag: int) -> bool:
        """Note a rejection, which the caller sends by itself; returns as `ack` does."""
        if self.is_settled(tag):
            return False
        self._settled[tag] = _TOLD
        return True

    def take(self) -> list[tuple[int, bool]]:
        """What to acknowledge now, as (delivery tag, multiple).

        Rejections noted by `told` must have been sent before: ``multiple`` covers their tags.
        """
        settled = self._settled
        tag = self._lowest
        top = 0
        while True:
            state = settled.pop(tag, 0)
            if not state:
                break
            if state == _ACKED:
                top = tag
            tag += 1
        self._lowest = tag
        acks: list[tuple[int, bool]] = [(top, True)] if top else []
        if self.pending and settled:
            for tag, state in settled.items():
                if state == _ACKED:
                    acks.append((tag, False))
                    settled[tag] = _TOLD
        self.pending = 0
        return acks
