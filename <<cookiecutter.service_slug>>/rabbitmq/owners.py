"""Whose a file is: the one place that knows that Windows has neither numbers for that nor bits of permission.

There, those may read a file who may read its folder, and Docker Desktop shows it to every user of a
container: nothing is to be given to anybody.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Numbers of a user and of a group.
Ids = tuple[int, int]
#: A number that leaves the owner, or the group, as it is (chown(2)).
KEEP = -1
#: Whether users and groups have numbers here.
NUMBERED = hasattr(os, "geteuid")


def is_root() -> bool:
    """Whether this process may give files away."""
    return NUMBERED and os.geteuid() == 0


def whose(folder: Path) -> Ids:
    """For whom this works: root for the owner of the folder, everybody else for himself.

    Where there are no numbers, they are root's: nobody's in particular.
    """
    if not NUMBERED:
        return 0, 0
    status = folder.stat()
    return (status.st_uid, status.st_gid) if is_root() else (os.getuid(), os.getgid())


def give(file: int | Path, owner: Ids) -> None:
    """Give a file, or an open one by its descriptor, to a user and a group; `KEEP` for either.

    :raises OSError: it may not be given to them
    """
    if NUMBERED and owner != (KEEP, KEEP):
        os.chown(file, *owner)


def permit(file: int, mode: int) -> None:
    """Set the permission bits of an open file, by its descriptor."""
    if NUMBERED:
        os.fchmod(file, mode)
