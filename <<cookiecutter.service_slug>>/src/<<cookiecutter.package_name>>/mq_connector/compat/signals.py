"""SIGTERM for programs that call ``run()`` and then do something else."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Protocol
from weakref import WeakSet


class Stoppable(Protocol):
    """What runs until it is stopped."""

    def stop(self) -> None:
        """Finish what is in hand."""


_running: WeakSet[Stoppable] = WeakSet()


def stop_on_sigterm(runner: Stoppable) -> None:
    """On SIGTERM, stop this one and all others, then exit with 0.

    Does nothing where the program handles the signal itself, or outside the main thread.
    """
    _running.add(runner)
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(_number: int, _frame: object) -> None:
    for runner in list(_running):
        runner.stop()
    sys.exit(0)
