"""Temporary files in memory, where there is room: the tests make and remove some hundred thousand, and a file
system on a disk takes a fifth of all their processor time to find places for them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

#: Where Linux has a file system in memory for everybody.
SHARED = Path("/dev/shm")
#: Bytes that the tests need at most, several times over: what is free there may be wanted by others, too.
ROOM = 4 * 1024**3


def use() -> None:
    """Have this process and those that it starts make their temporary files there, unless it is told where."""
    if not os.environ.get("TMPDIR") and has_room():
        os.environ["TMPDIR"] = tempfile.tempdir = str(SHARED)


def has_room(where: Path = SHARED, memory: Path = Path("/proc/meminfo")) -> bool:
    """Whether there is such a place, this user may use it, and neither it nor the memory is short."""
    try:
        space = os.statvfs(where)
        facts = dict(line.split(":") for line in memory.read_text().splitlines())
    except OSError:
        return False
    free = 1024 * int(facts.get("MemAvailable", "0 kB").split()[0])
    return os.access(where, os.W_OK) and min(space.f_bavail * space.f_frsize, free) >= ROOM
