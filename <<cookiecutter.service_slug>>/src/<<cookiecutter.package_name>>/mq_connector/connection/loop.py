"""The thread of a connection, on which nothing but a loop of I/O runs."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pika.adapters.select_connection import IOLoop

from ..logs import Logger

_log = Logger(__name__)

#: Seconds before a loop that failed is started again.
RESTART_PAUSE = 1.0


class Loop:
    """Runs until nobody wants it any more: where one loop of pika's fails, it is followed by another.

    :param begin: called when a loop has begun, on it
    :param on_failed: told of the error when one has failed
    :param on_ended: called when one has ended, before its descriptors are closed
    :param is_done: whether the thread may end; where it may, it does
    """

    def __init__(
        self,
        begin: Callable[[], None],
        on_failed: Callable[[BaseException], None],
        on_ended: Callable[[], None],
        is_done: Callable[[], bool],
    ) -> None:
        self.thread = threading.Thread(target=self._run, name="mq-io", daemon=True)
        #: pika's loop; None between two of them.
        self.io: IOLoop | None = None
        self._begin = begin
        self._on_failed = on_failed
        self._on_ended = on_ended
        self._is_done = is_done
        self._calls: deque[Callable[[], object]] = deque()
        #: Held while the loop has yet to notice that it is to look at the calls.
        self._awake = threading.Lock()

    # ---- from any thread

    def call(self, function: Callable[[], object]) -> None:
        """Run a function on the loop; many calls cost one wake-up. Dropped where the thread has ended."""
        self._calls.append(function)
        io = self.io
        if io is not None and self._awake.acquire(blocking=False):
            # Where a handler has closed files that aren't its own, the loop fails by itself, and the next one does it.
            with suppress(OSError):
                io.add_callback_threadsafe(self._run_calls)

    # ---- on the thread

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Run a function on the loop after some seconds; on the next loop, where this one has just failed."""
        if self.io is None:
            self.call(lambda: self.later(seconds, function))
        else:
            self.io.call_later(seconds, function)

    def stop(self) -> None:
        """End the loop that runs."""
        if self.io is not None:
            self.io.stop()

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except BaseException as error:  # members wait for what only a living loop brings
                _log.exception("the loop of a connection failed; starting it again")
                self._on_failed(error)
                time.sleep(RESTART_PAUSE)
                self._run_calls()  # also where no loop can be made: somebody may want to leave
            if self._is_done():
                return

    def _turn(self) -> None:
        """Run one loop, until it is stopped or something fails."""
        io = self.io = IOLoop()
        try:
            io.add_callback(self._run_calls)
            io.add_callback(self._begin)
            io.start()
        finally:
            self.io = None
            self._on_ended()
            io.close()

    def _run_calls(self) -> None:
        if self._awake.locked():
            self._awake.release()
        for _ in range(len(self._calls)):  # without a loop, some of them come back
            try:
                self._calls.popleft()()
            except BaseException:
                _log.exception("a call on the loop of a connection failed")
