"""Which of several workers waits for messages, so that quick ones aren't shared out among threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .busy import Busy
from .pace import Pace

#: Seconds of a callback up to which one worker does all: to share out messages among threads that wait for
#: the interpreter's lock was measured to cost some 25 µs for each, as much as the whole reference job.
QUICK = 0.0001
#: Seconds after which the one that has its turn is looked at.
LOOK = 0.004
#: For so many seconds in each of so many, a worker keeps its turn though callbacks aren't quick: of threads that
#: share out messages each waits for all others, so what is quick shows it only to one that is alone.
TRIAL, TRIED_EVERY = 0.01, 1.0
#: Seconds after which looking is begun anew: a loop that has failed has forgotten it.
_FORGOTTEN = 0.1


class Turns:
    """One worker at a time waits for messages; the others wait for their turn.

    While callbacks are quick, or nobody knows, it keeps its turn. Where they aren't, it passes it on before each
    one; and one that turns out to be slow loses it to the next worker. Each that does, one after another, lets twice
    as many begin at once, so that the first of many slow messages don't wait for each other.

    :param watch: calls a function on a loop after some seconds, from any thread
    """

    def __init__(self, watch: Callable[[float, Callable[[], None]], None]) -> None:
        self._watch = watch
        #: Who has it; asked for each message.
        self.holder: Busy | None = None
        #: Guards the waiting for messages: held by who has the turn, for whole callbacks.
        self._turn = threading.Lock()
        #: Guards the holder, as only one may let go of the turn.
        self._guard = threading.Lock()
        self._watched_until = 0.0
        #: How many the last look has let begin at once, and of these who may still.
        self._let_begin = self._may_begin = 0
        #: When one was last to show whether callbacks are quick; whoever has the turn says so.
        self._tried_at = 0.0
        self._is_open = False

    def take(self, worker: Busy) -> None:
        """Wait for the turn."""
        if self._is_open:
            return
        self._turn.acquire()
        self.holder = worker
        if self._is_open:
            self.give(worker)

    def give(self, worker: Busy) -> None:
        """Pass it on, if that one has it."""
        with self._guard:
            if self.holder is not worker:
                return
            self.holder = None
        self._turn.release()

    def begins(self, worker: Busy, pace: Pace) -> None:
        """Who has its turn begins a callback.

        :param pace: how long callbacks take, which count as quick until that is known
        """
        # A few that were late are no reason: what is usual has to be slow as well.
        if pace.average > QUICK and pace.usual > QUICK and not self._is_tried(worker.began):
            self.give(worker)
        elif self._may_begin:
            self._may_begin -= 1
            self.give(worker)
        elif worker.began > self._watched_until:
            self._watched_until = worker.began + _FORGOTTEN
            self._watch(LOOK, self._look)

    def _is_tried(self, now: float) -> bool:
        if now - self._tried_at > TRIED_EVERY:
            self._tried_at = now
            self._let_begin = self._may_begin = 0
        return now - self._tried_at < TRIAL

    def open(self) -> None:
        """Let all wait for messages from now on, as there will be no more."""
        self._is_open = True
        holder = self.holder
        if holder is not None:
            self.give(holder)

    def _look(self) -> None:
        # First, so that either who begins a callback sees that nobody watches, or is seen here.
        self._watched_until = 0.0
        worker = self.holder
        if worker is None:
            return
        if worker.delivery is None:
            self._let_begin = 0
            return  # which waits for a message
        now = time.monotonic()
        if now - worker.began > LOOK / 2:
            self._let_begin = self._may_begin = 2 * self._let_begin or 1
            self.give(worker)
        else:
            self._let_begin = 0
            self._watched_until = now + _FORGOTTEN
            self._watch(LOOK, self._look)
