"""A thread for what may have to wait, and so can't be done on the event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from ...logs import Logger
from .busy import Busy

_log = Logger(__name__)


class Aside:
    """Calls functions one after the other, on a thread that begins with the first of them.

    :param name: the thread's
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        # Guards that there is one thread.
        self._lock = threading.Lock()
        self._has_begun = False
        self._busy = Busy()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function, behind those before it."""
        self._queue.put(function)
        with self._lock:
            if not self._has_begun:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
                self._has_begun = True

    def why_stuck(self, stuck: float) -> str:
        """In words, why nothing more will be called; empty if something will.

        :param stuck: seconds after which the thread counts as stuck; 0 for never
        """
        if stuck and self._busy.busy_for(time.monotonic()) > stuck:
            return f"what has to wait beside async callbacks has taken more than {stuck:g} s"
        return ""

    def close(self) -> None:
        """End the thread when all is done."""
        self._queue.put(None)

    def _run(self) -> None:
        while True:
            function = self._queue.get()
            if function is None:
                return
            try:
                self._busy.call(function)
            except BaseException:  # the next one is called
                _log.exception("what had to wait has failed")
