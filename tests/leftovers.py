"""What an interrupt of tests in several processes would leave behind.

Ctrl-C reaches all of them, `kill -INT` the first alone; each then ends what its tests have started.
pytest-xdist would interrupt them once more after 5 s and kill them after another 5, in the middle of
that: a broker may take longer to stop. So the first process sees to it that all know, waits for
them, and at last kills what is still there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

#: Seconds that the others have from an interrupt to the end.
PATIENCE = 90.0
#: Seconds until whoever hasn't noticed the interrupt hasn't got it.
_NOTICED = 2.0

#: A process: its number, and when it began, so that no other is taken for it.
Process = tuple[int, str]


def _look(pid: int) -> tuple[int, str]:
    """A process's parent, and when it began."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), fields[19]


def descendants(root: int) -> set[Process]:
    """All that a process has started, and what these have; none where there is no /proc."""
    seen: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            seen[int(entry.name)] = _look(int(entry.name))
    found: set[Process] = set()
    parents = {root}
    while parents:
        parents = {pid for pid, (parent, _) in seen.items() if parent in parents}
        found |= {(pid, seen[pid][1]) for pid in parents}
    return found


class Leftovers:
    """The plugin of the process that starts the others.

    :param folder: where each of them keeps a file: `worker.<pid>`, and when it has been interrupted,
        `interrupted.<pid>`
    :param first: this process
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder = folder
        self._first = first
        self._nodes: list[Any] = []
        self._left: set[Process] = set()
        self._interrupted = False

    def pytest_testnodeready(self, node: Any) -> None:
        self._nodes.append(node)

    def pytest_keyboard_interrupt(self) -> None:
        self._interrupted = True
        self._left = descendants(self._first)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Before pytest-xdist ends its processes."""
        if not self._interrupted:
            return
        deadline = time.monotonic() + _NOTICED
        while (missed := self._numbers("worker") - self._numbers("interrupted")) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.05)
        for pid in missed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for node in self._nodes:
            with contextlib.suppress(node.channel.TimeoutError, EOFError, OSError):
                node.channel.waitclose(max(0.0, deadline - time.monotonic()))

    def pytest_unconfigure(self) -> None:
        for pid, began in self._left:
            with contextlib.suppress(OSError, IndexError):
                if _look(pid)[1] == began:
                    os.kill(pid, signal.SIGKILL)

    def _numbers(self, kind: str) -> set[int]:
        return {int(file.suffix[1:]) for file in self._folder.glob(f"{kind}.*")}
