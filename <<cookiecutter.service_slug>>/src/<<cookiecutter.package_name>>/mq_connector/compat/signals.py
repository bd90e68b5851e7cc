"""SIGTERM for programs that call ``run()`` and then wait for something else, or for nothing.

The first one drains all that runs and ends the process with 0; a second one ends it at once. Who handles
SIGTERM himself decides: there the end of the main thread, after the signal, is the word to end.

A signal is noticed in two ways. Python's handler runs on the main thread, between any two of its steps,
and not while it is in a call that isn't Python's. What the interpreter itself writes, at once, to its
wake-up descriptor (`signal.set_wakeup_fd`) also comes then, and for handlers that aren't ours. Both go
into one socket, which a thread reads: a handler must take no lock, as the main thread may hold it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import Protocol
from weakref import WeakSet

from ..connector import DRAIN
from ..ending import ECHO, end_process
from ..logs import Logger

_log = Logger(__name__)

#: Seconds from the first SIGTERM to the end of the process, whatever lives in it: the drain and what its
#: owner does then. Less than the 30 that containers get.
WITHIN = DRAIN + 2.0
#: Seconds for the main thread to notice that it is to end.
_NOTICED_WITHIN = 1.0
_STEP = 0.01
#: What the handler writes; the interpreter writes the signal's number.
_HANDLED, _SIGTERM = b"\0", bytes([signal.SIGTERM])


class Stoppable(Protocol):
    """What runs until it is stopped."""

    def stop(self) -> None:
        """Finish what is in hand."""


class Signals:
    """Sees to SIGTERM in one process, for all connectors in it."""

    def __init__(self) -> None:
        self._running: WeakSet[Stoppable] = WeakSet()
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        #: SIGTERMs so far, and when the first came.
        self._known = 0
        self._first = 0.0
        self._following = self._draining = False
        #: The exit code, once all has been stopped; and whether the main thread has heard of it.
        self._code: int | None = None
        self._noticed = False

    @property
    def is_installed(self) -> bool:
        """Whether SIGTERM is ours."""
        return signal.getsignal(signal.SIGTERM) == self.handle

    def install(self) -> None:
        """Take SIGTERM where nobody has; on the main thread only, elsewhere it does nothing."""
        if _on_main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self.handle)

    def add(self, runner: Stoppable) -> None:
        """This one runs now."""
        self._running.add(runner)
        if self._writer is None:
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            threading.Thread(target=self._listen, name="mq-signals", daemon=True).start()
        if _on_main_thread():
            others = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            if others not in (-1, self._writer.fileno()):
                signal.set_wakeup_fd(
                    others
                )  # an event loop's: it does without us, and we without it

    def discard(self, runner: Stoppable) -> None:
        """This one has been stopped."""
        self._running.discard(runner)

    def forget(self) -> None:
        """In a forked child, whose signals are its own and which has none of our threads."""
        if self.is_installed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._reader is None or self._writer is None:
            return
        others = signal.set_wakeup_fd(-1)
        if others not in (-1, self._writer.fileno()):
            signal.set_wakeup_fd(others)
        self._reader.close()
        self._writer.close()

    # ---- the main thread, between any two of its steps

    def handle(self, _number: int, _frame: object) -> None:
        """Python's handler of SIGTERM."""
        if self._writer is None or not (self._running or self._known):
            # Nothing of ours runs: as if we weren't there.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        with contextlib.suppress(OSError):
            self._writer.send(_HANDLED)
        if self._code is not None and not self._noticed:
            self._noticed = True
            if threading.main_thread().is_alive():
                sys.exit(self._code)

    # ---- the thread

    def _listen(self) -> None:
        assert self._reader is not None
        interpreters = handlers = 0
        while True:
            said = self._reader.recv(1)
            if not (self._running or self._known):
                continue  # `handle` ends the process
            # One signal is one of either, or one of each: not every one comes both ways.
            interpreters += said == _SIGTERM
            handlers += said == _HANDLED
            is_new = max(interpreters, handlers) > self._known
            self._known = max(interpreters, handlers, self._known)
            if is_new or said == _HANDLED:
                self._on_signal(is_new, said == _HANDLED)

    def _on_signal(self, is_new: bool, called: bool) -> None:
        """:param called: our handler was called, be it by another that is installed in its place"""
        now = time.monotonic()
        if not self._draining and (called or self.is_installed):
            self._draining, self._first = True, now
            threading.Thread(target=self._drain, name="mq-drain", daemon=True).start()
        elif self._draining and is_new and now - self._first >= ECHO:
            _log.warning("SIGTERM again: ending at once, unfinished messages are delivered again")
            end_process(1)
        elif not self._draining and not self._following:
            self._following = True
            threading.Thread(target=self._follow, name="mq-drain", daemon=True).start()

    def _follow(self) -> None:
        """Drain when the main thread has ended: the service has a handler of its own, which decides about that."""
        threading.main_thread().join()
        if not self._draining:
            self._first = time.monotonic()
            self._stop_all()
            self._wait_for_end()

    def _drain(self) -> None:
        _log.info("SIGTERM: finishing what is in hand")
        code = self._stop_all()
        main = threading.main_thread()
        self._known += 1  # the signal below
        self._code = code
        if main.is_alive() and main.ident is not None:
            signal.pthread_kill(main.ident, signal.SIGTERM)
            deadline = time.monotonic() + _NOTICED_WITHIN
            while not self._noticed and main.is_alive() and time.monotonic() < deadline:
                time.sleep(_STEP)
            if not self._noticed and main.is_alive():
                end_process(
                    code
                )  # it is in a call that isn't Python's, and knows nothing of Python's signals
        self._wait_for_end()

    def _stop_all(self) -> int:
        """Stop all that runs; returns the exit code."""
        runners = list(self._running)
        threads = [threading.Thread(target=each.stop, daemon=True) for each in runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self._first + WITHIN - time.monotonic()))
        if any(thread.is_alive() for thread in threads) or any(map(_was_cut_short, runners)):
            _log.error("not finished in time; what is left is delivered again")
            return 1
        return 0

    def _wait_for_end(self) -> None:
        time.sleep(max(0.0, self._first + WITHIN - time.monotonic()))
        _log.error("something keeps the process from its end; ending it")
        end_process(1)


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _was_cut_short(runner: Stoppable) -> bool:
    consumers = getattr(runner, "consumers", {})
    return any(getattr(consumer, "is_cut_short", False) for consumer in list(consumers.values()))


_signals = Signals()


def install_sigterm_handler() -> None:
    """Take SIGTERM where nobody has, for what will run; while nothing does, it ends the process as ever."""
    _signals.install()


def stop_on_sigterm(runner: Stoppable) -> None:
    """On SIGTERM, stop this one and all others, then end the process."""
    _signals.install()
    _signals.add(runner)


def was_stopped(runner: Stoppable) -> None:
    """This one doesn't run any more."""
    _signals.discard(runner)


class _AroundForks(threading.local):
    """Keeps SIGTERM away while this thread forks: one that is meant for the child would find our handler
    there, and then nobody who reads."""

    blocked: set[int | signal.Signals] | None = None

    def before(self) -> None:
        if _signals.is_installed:
            self.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def in_child(self) -> None:
        global _signals
        _signals.forget()
        _signals = Signals()
        self.afterwards()

    def afterwards(self) -> None:
        if self.blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.blocked)
            self.blocked = None


_around_forks = _AroundForks()
if hasattr(os, "register_at_fork"):  # Windows has no forks.
    os.register_at_fork(
        before=_around_forks.before,
        after_in_child=_around_forks.in_child,
        after_in_parent=_around_forks.afterwards,
    )
