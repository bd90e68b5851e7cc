"""How many bytes of messages are in hand: large messages are few, and too many of them go back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: Bytes of bodies in hand at the most, but for one message for each worker. A container of 256 MiB has room
#: for them beside a body that is just being handled (`mq_connector.payload.body.MAX_SIZE`).
MOST_BYTES = 32 * 1024 * 1024
#: Seconds in which the size that is reckoned with falls to a half, while only smaller bodies come.
_HALF_LIFE = 1.0


class Sizes:
    """How large the bodies of a queue are lately, as far as that matters.

    :param workers: how many messages are handled at a time, and may be in hand whatever their size
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._largest = 0
        self._seen_at = 0.0

    def saw(self, size: int) -> None:
        """A body of this many bytes has come."""
        now = time.monotonic()
        if size >= self._reckoned(now):
            self._largest, self._seen_at = size, now

    @property
    def fitting(self) -> int:
        """Messages that are to be in hand at the most: half of what may be, so that it needn't be changed
        for every body that is somewhat larger."""
        if not self._largest:
            return MOST_BYTES
        size = self._reckoned(time.monotonic())
        return max(self.workers, int(MOST_BYTES / 2 / max(size, 1.0)))

    def _reckoned(self, now: float) -> float:
        half_lives = min((now - self._seen_at) / _HALF_LIFE, 64.0)
        return self._largest / math.pow(2.0, half_lives)


class Bulk:
    """Counts the large bodies in hand of one opened channel; for the loop.

    A prefetch counts messages, and nobody knows how large the next ones will be. So those that are too
    many are dropped as they arrive, and put back when no consumer is there that they would come to again.

    :param is_done: whether what came with a tag is settled, or its body isn't needed for other reasons
    """

    def __init__(self, sizes: Sizes, is_done: Callable[[int], bool]) -> None:
        #: Bytes beyond which a body is counted; as many smaller ones as there can be aren't too much.
        self.counted_beyond = MOST_BYTES
        #: Called with the first message that is too much.
        self.on_too_much: Callable[[], object] = lambda: None
        self._sizes = sizes
        self._is_done = is_done
        self._in_hand: dict[int, int] = {}
        self._bytes = 0
        self._excess: list[int] = []

    def begin(self, prefetch: int) -> None:
        """Another consumer gets so many messages."""
        self.counted_beyond = MOST_BYTES // prefetch

    def has_room(self, tag: int, size: int) -> bool:
        """Count a message that is larger than `counted_beyond`, or any one behind one that was too much.

        :returns: False where it is to be dropped
        """
        if not self._excess:
            self._sizes.saw(size)
            if self._bytes + size > MOST_BYTES:
                self._forget_done()
            if self._bytes + size <= MOST_BYTES or len(self._in_hand) < self._sizes.workers:
                self._in_hand[tag] = size
                self._bytes += size
                return True
            # Whatever the size of the next ones: those in front of them are to come first again.
            self.counted_beyond = -1
            self._excess.append(tag)
            self.on_too_much()
        else:
            self._excess.append(tag)
        return False

    def take_excess(self) -> list[int]:
        """The tags of what was dropped, to be put back now that no consumer is there."""
        excess, self._excess = self._excess, []
        return excess

    def _forget_done(self) -> None:
        self._in_hand = {tag: size for tag, size in self._in_hand.items() if not self._is_done(tag)}
        self._bytes = sum(self._in_hand.values())
