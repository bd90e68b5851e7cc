"""What becomes of the messages of one consumer, in numbers.

What is noted of each message is a number at the end of a list, which is one step in any thread; a few hundred
are classed together. A lock or a look into the classes for each message would cost more than all else.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timezone

import pika
from pika.spec import Basic

from ..connection import Connection
from ..consumer.opened import Delivery, OpenedChannel
from ..consumer.opened.lines import SHORT, Named
from ..consumer.outbox import Outbox
from ..consumer.workers import Workers
from ..errors import EXCERPT, printable
from ..logs import text_of

#: Upper bounds in seconds of the classes that durations are counted in; above the last one there is another.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Errors that are remembered.
_ERRORS = 10

#: Messages, and replies, after which durations are classed; the former less 1, as bits of a delivery's tag.
_TOGETHER = 512
_MASK = _TOGETHER - 1
_now = time.monotonic


class Durations:
    """How many there were in each class of `BOUNDS`, and their sum in seconds."""

    __slots__ = ("classes", "total")

    def __init__(self) -> None:
        self.classes = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def take(self, noted: list[float]) -> None:
        """Class what was noted, and take it out of there; meanwhile others may note more."""
        taken = noted[:]
        del noted[: len(taken)]
        self.total += sum(taken)
        # Most are quick, and then there is nothing to sort.
        if not taken or max(taken) <= BOUNDS[0]:
            self.classes[0] += len(taken)
            return
        taken.sort()
        below = 0
        for number, bound in enumerate(BOUNDS):
            upto = bisect_right(taken, bound, below)
            self.classes[number] += upto - below
            below = upto
        self.classes[-1] += len(taken) - below

    def add_all(self, others: Durations) -> None:
        """All of another one."""
        self.classes = [
            mine + theirs for mine, theirs in zip(self.classes, others.classes, strict=True)
        ]
        self.total += others.total

    def cumulated(self) -> list[tuple[str, float]]:
        """For each bound, as Prometheus writes it, how many were not above it."""
        below, found = 0, []
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self.classes, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class TimedDelivery(Delivery):
    """A delivery that knows when it has come (`time.monotonic`)."""

    __slots__ = ()

    def __init__(
        self,
        opened: OpenedChannel,
        method: Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        # As `Delivery` does it: to call that would cost as much again as all else here.
        self.opened = opened
        self.method = method
        self.properties = properties
        self.body = body
        self.confirms = None
        self.tag = tag = method.delivery_tag  # type: ignore[assignment]  # what was delivered has one
        self.arrived = _now()
        if not tag & _MASK:  # type: ignore[operator]  # as above
            opened.observer.sort_in()  # type: ignore[union-attr]  # what `Counts.on_opened` has put there


class Counts:
    """Counts for one consumer, from its start on; an `Observer` and a `Listener` of `mq_connector.consumer.opened.observer`."""

    def __init__(self) -> None:
        self.workers: Workers | None = None
        #: The last that callbacks have raised, the latest at the end.
        self.errors: deque[dict[str, str | None]] = deque(maxlen=_ERRORS)
        #: Seconds that callbacks took, and from a message's arrival to each reply, as they come: any thread adds.
        self._noted: tuple[list[float], list[float]] = [], []
        # Guards all below.
        self._lock = threading.Lock()
        self._sorted = Durations(), Durations()
        self._rare: Counter[str] = Counter()
        self._opened: OpenedChannel | None = None
        #: Deliveries of earlier channels.
        self._received = 0

    # ---- mq_connector.consumer.opened.observer.Observer

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""
        answers = self._noted[1]
        note = answers.append

        def bounded(seconds: float) -> None:
            note(seconds)
            if len(answers) > _TOGETHER:  # a reply may have any number of parts
                self.sort_in()

        outbox = Outbox(connection)
        outbox.note = bounded
        return outbox

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""
        self.workers = workers

    def observe(self) -> Callable[[float], None]:
        """What a worker's thread calls with the seconds that each callback took."""
        return self._noted[0].append

    def on_opened(self, opened: OpenedChannel) -> None:
        """There is another channel."""
        opened.observer = self
        opened.delivery_type = TimedDelivery
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
        buried = opened.is_open and not opened.is_settled(delivery.tag)
        self._count("failed", *(["dead_lettered"] if buried else []))
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
        found = Durations(), Durations()
        self.sort_in()
        with self._lock:
            for mine, theirs in zip(found, self._sorted, strict=True):
                mine.add_all(theirs)
        return found

    # ---- from any thread

    def _count(self, *what: str) -> None:
        with self._lock:
            self._rare.update(what)

    def sort_in(self) -> None:
        """Class what was noted."""
        with self._lock:
            for durations, noted in zip(self._sorted, self._noted, strict=True):
                durations.take(noted)
