"""A container's first process: it outlives the one that serves, and says how that one was killed.

The kernel's out-of-memory killer takes the largest process, without a word, and what counts such kills (cgroups(7)) goes
with the container. So the first process is one that does nothing but wait; it is forked before anything large is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from .logs import Logger

_log = Logger(__name__)

#: Where the kernel counts the kills for memory in this container, and says how much it may use: cgroups of
#: version 2, and of version 1.
_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
#: What the one that serves is to hear of.
_PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def stay_behind(is_first: bool | None = None) -> None:
    """Go on as a child of the container's first process; elsewhere, just go on.

    The first process passes signals on, takes up what others leave behind, and ends as its child does.

    :param is_first: by default, whether this process is number 1
    """
    if not (os.getpid() == 1 if is_first is None else is_first) or not hasattr(os, "fork"):
        return
    numbers = {getattr(signal, name) for name in _PASSED_ON}
    killed = kills()
    # What comes in between waits until there is somebody to hear of it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    for number in numbers:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = _wait(child)
    if code == -signal.SIGKILL:
        _log.error("%s", describe(kills() > killed))
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code if code >= 0 else 128 - code)  # As a shell has it.


def _wait(child: int) -> int:
    """The exit code of the child, or its signal below zero; whoever else ends is taken up."""
    while True:
        process, status = os.waitpid(-1, 0)
        if process == child:
            return os.waitstatus_to_exitcode(status)


def kills() -> int:
    """How many processes of this container were killed for memory so far; 0 where nothing says it."""
    for place in _COUNTS:
        with suppress(OSError, ValueError):
            for line in Path(place).read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == "oom_kill":
                    return int(number)
    return 0


def describe(for_memory: bool) -> str:
    """A line for who finds that the service was started again."""
    if not for_memory:
        return "killed (SIGKILL), but not for this container's own memory; what was in hand is delivered again"
    limit = ""
    for place in _LIMITS:
        with suppress(OSError, ValueError):
            limit = f", of which it has {int(Path(place).read_text()) >> 20} MiB"
            break
    return (
        f"killed by the kernel for memory{limit}: give the container more (mem_limit in compose.yaml), or let it have "
        "less in hand (MQ_WORKERS, MQ_PREFETCH); what was in hand is delivered again"
    )
