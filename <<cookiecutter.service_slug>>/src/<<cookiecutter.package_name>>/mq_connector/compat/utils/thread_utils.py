"""A timer that goes off again and again."""

from __future__ import annotations

import threading

from ...logs import Logger

_log = Logger(__name__)


class RepeatingTimer(threading.Timer):
    """Calls its function every ``interval`` seconds until `cancel`.

    What the function raises is logged, and it is called again; the incumbent's timer ends there.
    """

    def run(self) -> None:
        """The thread."""
        while not self.finished.wait(self.interval):
            try:
                self.function(*self.args, **self.kwargs)
            except BaseException:  # SystemExit, too
                name = getattr(self.function, "__qualname__", repr(self.function))
                _log.exception("%s() has failed; it is called again in %g s", name, self.interval)
