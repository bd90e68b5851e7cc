"""What ends a service's process: signals, which are passed on to a thread, and a deadline that holds.

A child that a callback forks gets the default handlers back: ours would take the signals that are meant
for it, and there is nobody in it to pass them on to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from queue import SimpleQueue
from typing import Any, NoReturn

#: Seconds for the logs to be written before the process is ended without asking anybody.
_WRITTEN_WITHIN = 1.0
#: Seconds within which another signal is the first one's echo: `timeout` and `make` signal a process
#: and its group.
ECHO = 0.2
#: Seconds between two looks at whether the main thread has ended.
_LOOK = 0.2
_DEFAULTS: dict[int, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}


def end_process(code: int) -> NoReturn:
    """End the process at once; what was logged and printed is written, if that is quick."""

    def write() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        logging.shutdown()

    with contextlib.suppress(RuntimeError):  # Once it ends, Python 3.12 starts no thread any more.
        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(_WRITTEN_WITHIN)
    os._exit(code)


def end_within(seconds: float, code: int) -> threading.Timer:
    """End the process after some seconds, whatever lives in it then: threads, children that it waits for.

    :param code: the exit code
    :returns: what can be cancelled
    """
    try:
        timer = threading.Timer(seconds, end_process, (code,))
        timer.daemon = True
        timer.start()
    except RuntimeError:
        # As in `end_process`, or a callback has taken away what Python's threads need.
        end_process(code)
    return timer


def end_after_main(seconds: float) -> None:
    """End the process, with exit code 1, that many seconds after its main thread has ended: Python would wait
    for threads and children that a callback has left behind."""

    def follow() -> None:
        while not _has_ended(threading.main_thread()):
            time.sleep(_LOOK)
        time.sleep(seconds)
        end_process(1)

    threading.Thread(target=follow, name="mq-end", daemon=True).start()


def _has_ended(thread: threading.Thread) -> bool:
    """Whether a thread runs none of the program's code any more.

    The main thread counts as alive while it waits for what an executor (`concurrent.futures`) has left
    behind. All that it runs then is begun by `threading`'s own shutdown.
    """
    if not thread.is_alive():
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return (
        frame is not None
        and frame.f_code.co_name == "_shutdown"
        and frame.f_globals.get("__name__") == threading.__name__
    )


class Signals:
    """SIGTERM and SIGINT of this process; for its main thread.

    A signal comes between any two steps of that thread, which may just hold a lock that stopping needs.
    So the handler does nothing but pass it on, which `SimpleQueue.put` is made for.

    :param on_signal: called with the number and the time of its arrival (`time.monotonic`), on a thread of its own
    :param heeds: the signals that are passed on; what else comes of the two is taken, and nothing done
    """

    def __init__(
        self,
        on_signal: Callable[[int, float], None],
        heeds: Collection[int] = tuple(_DEFAULTS),
    ) -> None:
        self._on_signal = on_signal
        self._heeds = heeds
        self._signals: SimpleQueue[tuple[int, float]] = SimpleQueue()

    def install(self) -> None:
        """Take both signals, for as long as the process lives."""
        for number in _DEFAULTS:
            signal.signal(number, self._handle)
        threading.Thread(target=self._pass_on, name="mq-signals", daemon=True).start()

    def _handle(self, number: int, _frame: object) -> None:
        if number in self._heeds:
            self._signals.put((number, time.monotonic()))

    def _pass_on(self) -> None:
        while True:
            number, since = self._signals.get()
            try:
                self._on_signal(number, since)
            except BaseException:  # otherwise nothing would end it any more
                logging.getLogger(__name__).exception("ended at once by signal %d", number)
                end_process(1)


class _AroundForks(threading.local):
    """Keeps the signals away while this thread forks, and takes our handlers out of the child."""

    blocked: Any = None

    def before(self) -> None:
        if _installed():
            self.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULTS)

    def in_child(self) -> None:
        for number in _installed():
            signal.signal(number, _DEFAULTS[number])
        self.afterwards()

    def afterwards(self) -> None:
        if self.blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)
            self.blocked = None


def _installed() -> list[int]:
    """The signals that are ours."""
    return [
        number
        for number in _DEFAULTS
        if getattr(signal.getsignal(number), "__func__", None) is Signals._handle
    ]


_around_forks = _AroundForks()
if hasattr(os, "register_at_fork"):  # Windows has no forks.
    os.register_at_fork(
        before=_around_forks.before,
        after_in_child=_around_forks.in_child,
        after_in_parent=_around_forks.afterwards,
    )
