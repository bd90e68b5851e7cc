"""What becomes of the messages of one consumer, in numbers.

Each thread counts in a book of its own, in plain numbers: a lock for each message would cost more than all
else. Only what is rare has a lock.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timezone

import pika
from pika.spec import Basic

from ..connection import Connection
from ..consumer.opened import Delivery, Message, OpenedChannel
from ..consumer.opened.lines import SHORT, Named
from ..consumer.outbox import Outbox
from ..consumer.workers import Workers
from ..errors import EXCERPT, printable
from ..logs import text_of

#: Upper bounds in seconds of the classes that durations are counted in; above the last one there is another.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Errors that are remembered.
_ERRORS = 10

#: Of the thread itself: a consumer, which is one, says otherwise once it is over.
_is_alive = threading.Thread.is_alive
_now = time.monotonic
#: `super` would cost more than all else here.
_publish, _deliver = Outbox.publish, Delivery.__init__


class Durations:
    """How many there were in each class of `BOUNDS`, and their sum in seconds; written by one thread."""

    __slots__ = ("classes", "total")

    def __init__(self) -> None:
        self.classes = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.classes[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def add_all(self, others: Durations) -> None:
        """All of another book."""
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


class _Book:
    """What one thread has counted."""

    __slots__ = ("answers", "handled", "thread")

    def __init__(self, thread: threading.Thread | None) -> None:
        self.thread = thread
        self.handled, self.answers = Durations(), Durations()


class TimedDelivery(Delivery):
    """A delivery that knows when it has come (`time.monotonic`)."""

    __slots__ = ("arrived",)

    def __init__(
        self,
        opened: OpenedChannel,
        method: Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        _deliver(self, opened, method, properties, body)
        self.arrived = _now()


class _CountingOutbox(Outbox):
    """An outbox that counts the replies."""

    def __init__(self, connection: Connection, begin: Callable[[], Durations]) -> None:
        super().__init__(connection)
        self._begin = begin
        #: For each thread what it has counted.
        self._own = threading.local()

    def publish(
        self, opened: OpenedChannel, message: Message, delivery: Delivery | None = None
    ) -> None:
        """As `Outbox.publish`."""
        _publish(self, opened, message, delivery)
        if delivery is None or message.exchange:
            return
        try:
            answers = self._own.answers
        except AttributeError:
            answers = self._own.answers = self._begin()
        took = _now() - delivery.arrived  # type: ignore[attr-defined]  # what `TimedDelivery` has
        # As `Durations.add`, without a call more.
        answers.classes[bisect_left(BOUNDS, took)] += 1
        answers.total += took


class Counts:
    """Counts for one consumer, from its start on; an `Observer` and a `Listener` of `mq_connector.consumer.opened.observer`."""

    def __init__(self) -> None:
        self.workers: Workers | None = None
        #: The last that callbacks have raised, the latest at the end.
        self.errors: deque[dict[str, str | None]] = deque(maxlen=_ERRORS)
        # Guards all below; a book is written by its thread alone.
        self._lock = threading.Lock()
        self._books: list[_Book] = []
        #: What threads have counted that have ended.
        self._past = _Book(None)
        self._rare: Counter[str] = Counter()
        self._opened: OpenedChannel | None = None
        #: Deliveries of earlier channels.
        self._received = 0

    # ---- mq_connector.consumer.opened.observer.Observer

    def outbox(self, connection: Connection) -> Outbox:
        """What callbacks publish by."""
        return _CountingOutbox(connection, lambda: self._book().answers)

    def begin(self, workers: Workers) -> None:
        """The workers are about to start."""
        self.workers = workers

    def observe(self) -> Callable[[float], None]:
        """What a worker's thread calls with the seconds that each callback took."""
        handled = self._book().handled
        classes = handled.classes

        def noted(took: float) -> None:
            # As `Durations.add`, without a call more.
            classes[bisect_left(BOUNDS, took)] += 1
            handled.total += took

        return noted

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
        handled, answers = Durations(), Durations()
        with self._lock:
            self._close_books()
            for book in (self._past, *self._books):
                handled.add_all(book.handled)
                answers.add_all(book.answers)
        return handled, answers

    # ---- from any thread

    def _count(self, *what: str) -> None:
        with self._lock:
            self._rare.update(what)

    def _book(self) -> _Book:
        """A new book of this thread's own."""
        book = _Book(threading.current_thread())
        with self._lock:
            self._close_books()
            self._books.append(book)
        return book

    def _close_books(self) -> None:
        """Handlers may make a thread for each message: what has ended is kept as a sum."""
        ended = [each for each in self._books if each.thread and not _is_alive(each.thread)]
        for book in ended:
            self._books.remove(book)
            self._past.handled.add_all(book.handled)
            self._past.answers.add_all(book.answers)
