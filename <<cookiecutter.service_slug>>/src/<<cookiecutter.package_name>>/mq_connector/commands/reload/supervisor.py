"""Starts a service anew when its files change, without losing a request.

The next version is imported while the one before serves; only when that has gone well is the old one
asked to stop. It finishes what it has in hand, and the new one begins after that: two versions never
serve at the same time, so they never want the same port or file, and what is waiting stays in the queue.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ...config import environment, places
from ...ending import ECHO
from ...logs import Logger
from .sources import Sources, forget_compiled
from .version import Version, command

_log = Logger(__name__)

#: Seconds between two looks at the files, and between two while they change.
_LOOK, _SETTLE = 0.2, 0.05
#: Paths that are named; of more than that, the number is.
_NAMED = 3


def supervise(package: str) -> int:
    """Run a service until SIGTERM or SIGINT, whatever becomes of its versions; for the main thread.

    :param package: the package that is run
    :returns: exit code of the version that served at the end
    """
    folder = Path(next(iter(sys.modules[package].__path__)))
    if folder.parent.name == "src":  # what lies beside the package is the repository's own
        folder = folder.parent
    beside = [Path(".env"), *places(environment())]
    words = command()
    return Supervisor(Sources(folder, beside), lambda: Version(words)).run()


class Supervisor:
    """Holds at most two versions: the one that serves, and the one that comes after it.

    :param sources: the files that it looks at
    :param start: starts a process with the version that they are now
    """

    def __init__(self, sources: Sources, start: Callable[[], Version]) -> None:
        self._sources = sources
        self._start = start
        self._serving: Version | None = None
        self._next: Version | None = None
        self._changing: set[str] = set()
        #: When they came.
        self._signals: list[float] = []

    def run(self) -> int:
        """As `supervise`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        try:
            self._next = self._start()
            while True:
                self._wait(_SETTLE if self._changing else _LOOK)
                if self._signals:
                    return self._end()
                self._look_at_versions()
                if self._next is None or not self._next.is_ready:
                    self._look_at_files()
        finally:
            for version in filter(None, (self._serving, self._next)):
                version.kill()

    def _note(self, _number: int, _frame: object) -> None:
        """Nothing but noting it: a signal comes between any two steps."""
        now = time.monotonic()
        if not self._signals or now - self._signals[-1] >= ECHO:
            self._signals.append(now)

    def _wait(self, seconds: float) -> None:
        """Wait until a version says something or has ended; no longer than that."""
        versions = [each for each in (self._serving, self._next) if each and each.fileno() >= 0]
        select.select(versions, [], [], seconds)
        for version in filter(None, (self._serving, self._next)):
            version.listen()

    def _look_at_versions(self) -> None:
        serving, coming = self._serving, self._next
        if serving and serving.exit_code is not None:
            if not serving.is_stopping and not coming:
                _log.error(
                    "the service has ended with %s; it starts again after the next edit",
                    serving.exit_code,
                )
            self._serving = serving = None
        if coming and coming.exit_code is not None:
            goes_on = "the version before goes on" if serving else "no version is running"
            _log.error(
                "this version can't be started (exit code %s); %s until the next edit",
                coming.exit_code,
                goes_on,
            )
            self._next = None
        elif coming and coming.is_ready:
            if serving is None:
                coming.go()
                self._serving, self._next = coming, None
            elif not serving.is_stopping:
                serving.stop()

    def _look_at_files(self) -> None:
        changed = self._sources.changed()
        self._changing.update(changed)
        if changed or not self._changing:  # until they stand still, or as long as they do
            return
        paths = sorted(self._changing)
        self._changing.clear()
        named = [os.path.relpath(path) for path in paths[:_NAMED]]
        _log.info("%s changed", ", ".join(named) if len(paths) <= _NAMED else f"{len(paths)} files")
        if self._next:
            self._next.discard()
        forget_compiled(paths)
        self._next = self._start()

    def _end(self) -> int:
        """Pass on each signal, and wait for the version that serves."""
        if self._next:
            self._next.discard()
            self._next = None
        passed_on = 0
        while self._serving and self._serving.exit_code is None:
            while passed_on < len(self._signals):
                # To one that drains already, the first is no second one.
                if passed_on or not self._serving.is_stopping:
                    self._serving.stop()
                passed_on += 1
            self._wait(_LOOK)
        return (self._serving and self._serving.exit_code) or 0
