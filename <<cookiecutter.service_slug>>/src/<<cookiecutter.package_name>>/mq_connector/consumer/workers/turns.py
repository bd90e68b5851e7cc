"""Which of several workers waits for messages, so that quick messages aren't shared out among threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .busy import Busy
from .pace import Pace

#: Seconds that callbacks may take on average for one worker to do all: sharing messages among threads that wait
#: for the interpreter's lock was measured to cost some 25 µs for each, as much as the whole reference job.
QUICK = 0.0001
#: Seconds after which it is checked whether the worker that has the turn is slow.
LOOK = 0.004
#: A worker keeps its turn for `TRIAL` seconds in every `TRIED_EVERY`, even if callbacks look slow: threads that share
#: messages wait for each other, so whether callbacks are quick shows only when one worker handles them alone.
TRIAL, TRIED_EVERY = 0.01, 1.0
#: Seconds after which another check is set: a loop that has failed has lost the one before.
_FORGOTTEN = 0.1


class Turns:
    """One worker at a time waits for messages; the others wait for their turn.

    While callbacks are quick, or weren't measured yet, that worker keeps the turn. If they are slow, it passes the
    turn on before each one; and if a callback turns out to be slow, its worker loses the turn to the next one. Each
    such loss in a row lets twice as many begin at once, so that the first of many slow messages don't wait for each
    other.

    :param watch: calls a function on a loop after some seconds, from any thread
    """

    def __init__(self, watch: Callable[[float, Callable[[], None]], None]) -> None:
        self._watch = watch
        #: The worker that has the turn; read for each message.
        self.holder: Busy | None = None
        #: Guards the waiting for messages: held by the worker that has the turn, for whole callbacks.
        self._turn = threading.Lock()
        #: Guards the holder, as only one thread may release the turn.
        self._guard = threading.Lock()
        self._watched_until = 0.0
        #: How many workers the last check has let begin at once, and how many of these still may.
        self._let_begin = self._may_begin = 0
        #: When the last trial began (`time.monotonic`).
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
        """Pass the turn on, if this worker has it."""
        with self._guard:
            if self.holder is not worker:
                return
            self.holder = None
        self._turn.release()

    def begins(self, worker: Busy, pace: Pace) -> None:
        """The worker that has the turn begins a callback.

        :param pace: how long callbacks take; they count as quick until that is known
        """
        # A few late ones are no reason: the longer average has to be slow as well.
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
        # First, so that a worker that begins a callback now either is seen here or sets another check.
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
