"""A timer that goes off again and again."""

from __future__ import annotations

import threading


class RepeatingTimer(threading.Timer):
    """Calls its function every ``interval`` seconds until `cancel`."""

    def run(self) -> None:
        """The thread."""
        while not self.finished.wait(self.interval):
            self.function(*self.args, **self.kwargs)
