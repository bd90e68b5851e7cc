"""A constant load with a ledger: what the broker has confirmed must be processed, whatever happens."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pika
from mq_connector.consumer import Channel
from pika.exceptions import AMQPError
from waiting import eventually

from .peer import Peer


class Reachable(Protocol):
    """A broker, or a cluster of them."""

    def parameters(
        self, **options: Any
    ) -> pika.ConnectionParameters | Sequence[pika.ConnectionParameters]:
        """How to connect."""


#: Confirmed messages, of which there must be more.
_ENOUGH = 50


class Load:
    """Publishes numbers with confirms, one after the other, and notes what a consumer makes of them.

    Each number is sent once: one without a confirm may or may not arrive.

    :param queue: must survive what is going to happen
    :param pause: seconds between two messages
    :param work: seconds that each takes to handle; enough of it to keep some waiting behind, or a
        message that is acknowledged too early could hardly get lost
    :param reply: bytes of what is published for each that is handled
    """

    def __init__(
        self,
        broker: Reachable,
        queue: str,
        pause: float = 0.002,
        work: float = 0.02,
        reply: int = 0,
    ) -> None:
        self.sent = 0
        self.confirmed: set[int] = set()
        #: For each number, whether it was redelivered, as often as it was processed.
        self.processed: dict[int, list[bool]] = defaultdict(list)
        self._peer = Peer(broker.parameters(heartbeat=30, socket_timeout=2, stack_timeout=5))
        self._queue = queue
        self._pause = pause
        self._work = work
        self._reply = reply
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._over = threading.Event()
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._thread = threading.Thread(target=self._publish, name="load", daemon=True)

    def handle(self, channel: Channel, method: Any, _properties: Any, body: bytes) -> None:
        """The consumer's callback: notes the number, and publishes something that nobody wants."""
        time.sleep(self._work)
        self._may_go_on.wait(60)
        with self._lock:
            self.processed[int(body)].append(method.redelivered)
        body = body.ljust(self._reply)
        channel.basic_publish("amq.fanout", "", body, pika.BasicProperties(expiration="1000"))

    def __enter__(self) -> Load:
        self._thread.start()
        eventually(lambda: len(self.confirmed) > 10, what="some messages are confirmed")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            # A busy machine sends few in a second, and few prove little.
            eventually(lambda: len(self.confirmed) > _ENOUGH, what="enough messages are confirmed")
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the load's publisher hangs"

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Send nothing meanwhile, after all that is confirmed has been handled."""
        with self._sending:
            eventually(lambda: not self.lost, what="every confirmed message is processed")
            yield

    @contextlib.contextmanager
    def in_hand(self) -> Iterator[None]:
        """Let no callback return meanwhile, with more messages behind than there are workers: what is
        acknowledged before it is handled is lost if the link is."""
        self._may_go_on.clear()
        try:
            enough = len(self.confirmed) + 20
            eventually(lambda: len(self.confirmed) > enough, what="messages wait behind others")
            yield
        finally:
            self._may_go_on.set()

    @property
    def lost(self) -> set[int]:
        """Confirmed and not processed."""
        with self._lock:
            return self.confirmed - self.processed.keys()

    def check(self, within: float = 60.0) -> dict[str, int]:
        """Assert that nothing is lost and no duplicate unmarked; returns the ledger for the book."""
        assert self._over.is_set()
        eventually(lambda: not self.lost, within, "every confirmed message is processed")
        # One of them is the first; with several workers it may be done later than the one that came again.
        unmarked = [n for n, times in self.processed.items() if times.count(False) > 1]
        assert not unmarked, f"duplicates that aren't marked as redelivered: {unmarked[:10]}"
        assert len(self.confirmed) > _ENOUGH, "hardly any load"
        return {
            "sent": self.sent,
            "confirmed": len(self.confirmed),
            "processed": len(self.processed),
            "duplicated": sum(len(times) - 1 for times in self.processed.values()),
            "lost": len(self.lost),
        }

    def _publish(self) -> None:
        while not self._over.wait(self._pause):
            number = self.sent = self.sent + 1
            try:
                with self._sending:
                    self._peer.publish(self._queue, b"%d" % number, delivery_mode=2)
                    self.confirmed.add(number)
            except (AMQPError, OSError):
                self._peer.reset()
                self._over.wait(0.05)
        with contextlib.suppress(AMQPError):
            self._peer.close()


class Watch:
    """Samples a condition and remembers when it changed.

    :param look: the condition
    :param every: seconds between two looks
    """

    def __init__(self, look: Any, every: float = 0.01) -> None:
        #: The time (`time.monotonic`) at which each look was begun that saw a change, and what it saw.
        self.changes: list[tuple[float, bool]] = []
        self._look = look
        self._every = every
        # Guards that a change is noted once, and in order.
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        eventually(lambda: self.changes and self.changes[-1][1], what="the watched is well")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def first(self, state: bool, since: float, within: float) -> float:
        """Seconds from `since` until `state` was seen; waits for it for up to `within` after `since`."""

        def seen() -> list[float]:
            return [at for at, found in self.changes if found is state and at >= since]

        remaining = since + within - time.monotonic()
        eventually(seen, max(remaining, 0.05), f"the watched becomes {state}")
        return seen()[0] - since

    def look(self) -> None:
        """Look at once: whoever causes a change may know better when to than the next sample; from any thread."""
        with self._lock:
            found = bool(self._look())
            if not self.changes or self.changes[-1][1] is not found:
                self.changes.append((time.monotonic(), found))

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self.look()
