"""The public connector is somebody else's code, and hangs or dies now and then. What that costs is decided here.

A process of it that gives no result says nothing of ours, so it is tried again. A result that isn't the
one that was wanted is a result, and counts; and ours has one try everywhere. Imports nothing: the
incumbent's environment uses this, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import TypeVar

#: Times that it may try.
TRIES = 6
#: Seconds that a process of it may take at first; the later tries may take longer, as it may have been
#: the machine that was slow.
PATIENCE = 30.0
#: Seconds that no try of it takes longer than.
LONGEST = 90.0
#: Seconds until ours counts as hung, which may itself wait for a process of the incumbent.
OURS = 300.0
#: How its name is written where an implementation is named.
INCUMBENT = "incumbent"

Given = TypeVar("Given")


class GaveNothing(Exception):
    """A process has hung, or has ended without a result."""


def tries(kind: str) -> Iterator[float]:
    """The seconds that each try of an implementation may take: ours has one, with all the time there is."""
    if kind != INCUMBENT:
        yield OURS
        return
    for number in range(1, TRIES + 1):
        yield min(LONGEST, PATIENCE * number)


def tried(kind: str, once: Callable[[float], Given]) -> Given:
    """What a function returns that runs a process of an implementation, tried again where that may be.

    :param once: gets the seconds that it may take
    :raises GaveNothing: it has hung or died each time
    :raises subprocess.TimeoutExpired: it has taken too long each time
    """
    trouble: Exception | None = None
    for seconds in tries(kind):
        try:
            return once(seconds)
        except (GaveNothing, subprocess.TimeoutExpired) as error:
            trouble = error
    assert trouble is not None
    raise trouble
