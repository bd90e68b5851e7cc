"""What was sent, what the broker has confirmed, and what came of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from connector.functional.broker import Broker
from connector.functional.peer import Peer
from pika.exceptions import AMQPError
from waiting import eventually


class Ledger:
    """Sends numbers with confirms, each once, and reads in the service's journal what became of them.

    :param pause: seconds between two messages
    """

    def __init__(self, broker: Broker, queue: str, journal: Path, pause: float = 0.004) -> None:
        self.sent = 0
        self.confirmed: set[int] = set()
        self.processed: set[int] = set()
        #: Further deliveries of what was processed before: marked as redelivered, and not.
        self.redelivered = 0
        self.unmarked: list[int] = []
        #: The highest number that was processed.
        self.highest = 0
        self._candidates: set[int] = set()
        self._peer = Peer(broker.parameters(heartbeat=30, socket_timeout=2, stack_timeout=5))
        self._queue = queue
        self._journal = journal
        self._pause = pause
        self._lock = threading.Lock()
        self._sending_over, self._reading_over = threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._send, name="sender", daemon=True)
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)

    def start(self) -> None:
        """Begin to send and to read."""
        self._sender.start()
        self._reader.start()

    def stop_sending(self) -> None:
        """Send no more; waits for the last confirm."""
        self._sending_over.set()
        self._sender.join(60)
        if self._sender.is_alive():
            raise AssertionError("the sender hangs")

    def stop(self) -> None:
        """Read no more."""
        self._reading_over.set()
        if self._reader.ident is not None:
            self._reader.join(10)

    def catch_up(self, within: float = 30.0) -> None:
        """Wait until all that is confirmed by now is processed, so that later excuses don't cover it.

        :param within: seconds
        """
        with self._lock:
            confirmed = set(self.confirmed)
        eventually(lambda: not confirmed & self.lost, within, "all that was confirmed is processed")

    def queue_was_deleted(self) -> None:
        """Whatever was sent by now and isn't processed may have gone with the queue, as it was told to."""
        with self._lock:
            self._candidates |= set(range(1, self.sent + 1)) - self.processed

    @property
    def deleted(self) -> set[int]:
        """Confirmed, not processed, and perhaps in the queue when that was deleted."""
        with self._lock:
            return (self.confirmed & self._candidates) - self.processed

    @property
    def lost(self) -> set[int]:
        """Confirmed and neither processed nor deleted with its queue."""
        with self._lock:
            return self.confirmed - self.processed - self._candidates

    @property
    def figures(self) -> dict[str, int]:
        """The ledger, for people."""
        return {
            "sent": self.sent,
            "confirmed": len(self.confirmed),
            "processed": len(self.processed),
            "duplicated, marked as redelivered": self.redelivered,
            "duplicated, unmarked": len(self.unmarked),
            "deleted with their queue": len(self.deleted),
            "lost": len(self.lost),
        }

    def _send(self) -> None:
        while not self._sending_over.wait(self._pause):
            number = self.sent = self.sent + 1
            try:
                self._peer.publish(self._queue, b"%d" % number, delivery_mode=2)
            except (AMQPError, OSError):
                self._peer.reset()
                self._sending_over.wait(0.05)
            else:
                with self._lock:
                    self.confirmed.add(number)

    def _read(self) -> None:
        rest = b""
        with self._journal.open("rb") as journal:
            while True:
                over = self._reading_over.is_set()
                *lines, rest = (rest + journal.read()).split(b"\n")
                with self._lock:
                    for line in lines:
                        self._note(*map(int, line.split()))
                if over:
                    return
                time.sleep(0.005)

    def _note(self, number: int, redelivered: int) -> None:
        if number not in self.processed:
            self.processed.add(number)
            self.highest = max(self.highest, number)
        elif redelivered:
            self.redelivered += 1
        else:
            self.unmarked.append(number)
