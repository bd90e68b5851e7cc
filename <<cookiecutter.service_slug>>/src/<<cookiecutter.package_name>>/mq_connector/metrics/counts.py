"""What becomes of the messages of one consumer, in numbers.

A lock, a clock or a search for a bucket for each message would cost more than all else. So what callbacks took is
noted in a list, replies are timed together as they leave together, and all of it is put into buckets, a few
dozen at a time.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from datetime import datetime, timezone

from ..connection import Connection
from ..consumer.opened import Delivery, OpenedChannel
from ..consumer.opened.lines import SHORT, Named
from ..consumer.outbox import Outbox
from ..consumer.workers import Workers
from ..errors import EXCERPT, printable
from ..logs import text_of

#: Upper bounds in seconds of the buckets that durations are counted in; above the last one there is another.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Callbacks, and bursts of replies, that are noted before they are put into buckets.
_CALLBACKS, _BURSTS = 64, 64
#: Errors that are remembered.
_ERRORS = 10


def _bucket(seconds: float) -> int:
    return bisect_left(BOUNDS, seconds)


class Durations:
    """How many durations are in each bucket of `BOUNDS`, and their sum in seconds."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def take(self, seconds: list[float]) -> None:
        """Put one or several durations (seconds) into their buckets."""
        self.total += sum(seconds)
        longest, below = max(seconds), 0
        # Seldom true of callbacks, and found out sooner than each one's bucket.
        if longest > BOUNDS[0]:
            seconds.sort()
            for number in range(_bucket(seconds[0]), _bucket(longest)):
                upto = bisect_right(seconds, BOUNDS[number], below)
                self.buckets[number] += upto - below
                below = upto
        self.buckets[_bucket(longest)] += len(seconds) - below

    def take_until(self, end: float, began: list[float]) -> None:
        """Put one or several durations with a common end into their buckets.

        :param began: when each began; of the same clock (seconds) as `end`
        """
        self.total += end * len(began) - sum(began)
        began.sort()  # nearly sorted: replies leave in the order in which messages came
        longest, rest = _bucket(end - began[0]), len(began)
        for number in range(_bucket(end - began[-1]), longest):
            first = bisect_left(began, end - BOUNDS[number], 0, rest)
            self.buckets[number] += rest - first
            rest = first
        self.buckets[longest] += rest

    def add_all(self, others: Durations) -> None:
        """Add another one's."""
        self.buckets = [
            mine + theirs for mine, theirs in zip(self.buckets, others.buckets, strict=True)
        ]
        self.total += others.total

    def cumulated(self) -> list[tuple[str, float]]:
        """For each bound, as Prometheus writes it, how many durations don't exceed it."""
        below, found = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.buckets, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Counts:
    """Counts for one consumer, from its start on; an `Observer` and a `Listener` of `mq_connector.consumer.opened.observer`."""

    def __init__(self) -> None:
        self.workers: Workers | None = None
        #: The last that callbacks have raised, the latest at the end.
        self.errors: deque[dict[str, str | None]] = deque(maxlen=_ERRORS)
        #: What callbacks took: any thread adds.
        self._took: list[float] = []
        #: When a burst of replies left, and when their messages had arrived: any thread adds.
        self._replied: list[tuple[float, list[float]]] = []
        self.note = self._took.append
        # Guards all below.
        self._lock = threading.Lock()
        self._delays = Durations()
        self._handled = Durations()
        self._rare: Counter[str] = Counter()
        self._opened: OpenedChannel | None = None
        #: Deliveries of earlier channels.
        self._received = 0

    # ---- mq_connector.consumer.opened.observer.Observer

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""
        outbox = Outbox(connection)
        outbox.on_replied = self._on_replied
        return outbox

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""
        self.workers = workers

    def sort_in(self) -> None:
        """Put what was noted into its buckets, if it is much."""
        if len(self._took) > _CALLBACKS:
            self._sort_in()

    def on_opened(self, opened: OpenedChannel) -> None:
        """There is another channel."""
        opened.observer = self
        opened.collected.time_replies(self._on_replied)
        with self._lock:
            if self._opened is not None:
                self._received += self._opened.last_tag
            self._opened = opened

    def retried(self) -> None:
        """A message comes again later."""
        self._count("retried")

    def rejected(self, requeue: bool) -> None:
        """A callback has rejected a message."""
        if requeue:
            self._count("requeued")
        else:
            self._count("rejected", "dead_lettered")

    def failed(self, delivery: Delivery, error: Exception) -> None:
        """A message has failed."""
        opened = delivery.opened
        dead_lettered = opened.is_open and not opened.is_settled(delivery.tag)
        self._count("failed", *(["dead_lettered"] if dead_lettered else []))
        name = type(error).__name__
        message_id = Named(delivery, SHORT).message_id
        self.errors.append(
            {
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "exception": printable(name),
                "text": printable(text_of(error).removeprefix(name).removeprefix(": ")),
                "message_id": None if message_id is None else printable(message_id, EXCERPT),
            }
        )

    # ---- for who asks, from any thread

    @property
    def received(self) -> int:
        """Messages that the broker has delivered, those that came again included."""
        with self._lock:
            return self._received + (0 if self._opened is None else self._opened.last_tag)

    @property
    def in_flight(self) -> int:
        """Messages that have come and aren't settled."""
        opened = self._opened
        return opened.outstanding if opened is not None and opened.is_open else 0

    def rare(self, what: str) -> int:
        """How often it happened: ``failed``, ``rejected``, ``requeued``, ``retried``, ``dead_lettered``."""
        with self._lock:
            return self._rare[what]

    def durations(self) -> tuple[Durations, Durations]:
        """Those of callbacks, and those from a message's arrival to each reply."""
        self._sort_in()
        handled, delays = Durations(), Durations()
        with self._lock:
            handled.add_all(self._handled)
            delays.add_all(self._delays)
        return handled, delays

    # ---- from any thread

    def _count(self, *what: str) -> None:
        with self._lock:
            self._rare.update(what)

    def _on_replied(self, arrivals: list[float]) -> None:
        self._replied.append((time.monotonic(), arrivals))
        if len(self._replied) > _BURSTS:
            self._sort_in()

    def _sort_in(self) -> None:
        with self._lock:
            # Meanwhile others may note more.
            took, replied = self._took[:], self._replied[:]
            del self._took[: len(took)], self._replied[: len(replied)]
            if took:
                self._handled.take(took)
            for left, arrivals in replied:
                self._delays.take_until(left, arrivals)
