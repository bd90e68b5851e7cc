"""What leaves on one opened channel, collected so that it travels together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from ...connection.link import Link
from ...connection.wire import frames
from .acks import Acks

#: Gets when the messages arrived (`time.monotonic`) whose replies leave now; from any thread.
OnReplied = Callable[[list[float]], object]


class Collected:
    """Publishes, rejects and acknowledgements of a channel; whoever owns the channel guards it with a lock.

    They leave at once while nothing else is waiting to be handled, otherwise in bursts. In a burst
    publishes stand first, so that no reply can be lost behind the ack of its request.

    :param lock: what it is guarded with
    :param inbox: what waits to be handled; while something does, sending can wait too
    """

    def __init__(
        self, link: Link, number: int, acks: Acks, lock: threading.Lock, inbox: SimpleQueue[Any]
    ) -> None:
        #: Frames that are worth sending: half the prefetch, so that the broker has more to send before their acks come.
        self.burst = 1
        self.publishes: list[bytes] = []
        self.rejects: list[bytes] = []
        #: Notes when a message arrived that one of `publishes` replies to, if that is counted.
        self.note_reply: Callable[[float], object] | None = None
        #: Whether the broker is told of nothing that is settled.
        self.is_held = False
        self._link = link
        self._transport = link.transport
        self._number = number
        self._acks = acks
        self._lock = lock
        self._inbox = inbox
        # What was noted, and who is told of it as these replies leave.
        self._arrivals: list[float] = []
        self._on_replied: OnReplied = lambda _: None
        self._lingering = False

    def time_replies(self, on_replied: OnReplied) -> None:
        """Tell of replies from now on, as they leave."""
        self._on_replied = on_replied
        self.note_reply = self._arrivals.append

    def send_or_linger(self) -> None:
        """Something was added: send all, now or soon."""
        if len(self.publishes) + self._acks.pending >= self.burst or self._inbox.empty():
            self.flush()
        elif not self._lingering:
            self._lingering = True
            self._link.lingering.add(self._on_lingered)

    def flush(self) -> None:
        """Publishes first, so that no reply can be lost behind its ack; rejects before the acks that
        cover their tags (`Acks.take`)."""
        burst, self.publishes = self.publishes, []
        if self._arrivals:
            self._on_replied(self._arrivals[:])
            self._arrivals.clear()
        if self.is_held:
            self._transport.send(burst)
            return
        if self.rejects:
            burst += self.rejects
            self.rejects = []
        if self._acks.pending:
            number = self._number
            burst += [frames.ack(number, tag, multiple) for tag, multiple in self._acks.take()]
        self._transport.send(burst)

    def forget(self) -> None:
        """Nothing more can leave: the channel ends."""
        self.publishes, self.rejects = [], []
        self._arrivals.clear()
        self._acks.take()

    # ---- on the loop

    def _on_lingered(self) -> bool:
        with self._lock:
            self._lingering = bool(self.publishes or self._acks.pending)
            self.flush()
            return self._lingering
