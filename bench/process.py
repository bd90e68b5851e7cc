"""The process that is measured, and what the operating system says about it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Seconds that a thawed process may take until it waits for something again.
_GOES_ON = 1.0
#: In the number of a process's clock: all its threads, as the scheduler counts (Linux's CPUCLOCK_SCHED).
_PROCESS = 2


class ProcessError(Exception):
    """The process ended by itself."""


class Process:
    """A child of ours, with the processes that it makes.

    :param log: gets what it prints
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            #: When it was started (`time.monotonic`).
            self.began = time.monotonic()
            # A session of its own: Ctrl-C is for us, and we end it in good order.
            self._child = subprocess.Popen(
                command,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The process and its descendants."""
        found = [self._child.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def check(self) -> None:
        """:raises ProcessError: it has ended, with the last that it printed"""
        if self._child.poll() is not None:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            last = " | ".join(lines[-3:])[-300:] or "without a word"
            raise ProcessError(f"ended with exit code {self._child.returncode}: {last}")

    def cpu(self) -> float:
        """Seconds of processor time, user and system, as the operating system accounts for them.

        To the nanosecond, with the threads that have ended: the clock of each process
        (clock_getcpuclockid(3)), which Python has a name for only where the process is its own.
        """
        return sum(_used(pid) for pid in self.pids)

    def switches(self) -> tuple[int, int]:
        """How often a thread of it has left a processor: because it had to wait, and against its will."""
        names = ("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
        found = dict.fromkeys(names, 0)
        for pid in self.pids:
            for file in Path(f"/proc/{pid}/task").glob("*/status"):
                with contextlib.suppress(OSError):
                    for line in file.read_text().splitlines():
                        if line.startswith(names):
                            name, number = line.split()
                            found[name] += int(number)
        return found[names[0]], found[names[1]]

    def resident(self) -> float:
        """Megabytes (2^20) of memory that it occupies now."""
        return sum(_status(pid, "VmRSS") for pid in self.pids)

    def peak(self) -> float:
        """Megabytes (2^20) of memory that it occupied at most."""
        return sum(_status(pid, "VmHWM") for pid in self.pids)

    def freeze(self) -> None:
        """SIGSTOP to all of it; returns when nothing of it runs any more."""
        pids = self.pids
        for pid in pids:
            _kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 1
        while any(_state(pid) not in ("T", "Z", "") for pid in pids):
            if time.monotonic() > deadline:
                raise ProcessError("it can't be frozen")
            time.sleep(0.001)

    def thaw(self) -> None:
        """Undo `freeze`."""
        for pid in self.pids:
            _kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, after a second once more, and after three SIGKILL, to all of it."""
        pids = self.pids
        self.thaw()
        # A signal that comes before the main thread has gone on is taken by another one; Python's main
        # thread, which alone runs handlers, hears nothing of it then.
        deadline = time.monotonic() + _GOES_ON
        while _state(self._child.pid) in ("T", "R") and time.monotonic() < deadline:
            time.sleep(0.001)
        for number, seconds in ((signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGKILL, None)):
            _kill(self._child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)
                break
        for pid in pids[1:]:
            _kill(pid, signal.SIGKILL)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _state(pid: int) -> str:
    """The letter that the kernel has for what the process does; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _used(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | _PROCESS)
    except OSError:  # it has just ended
        return 0.0


def _status(pid: int, name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0
