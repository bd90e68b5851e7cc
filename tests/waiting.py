"""Waiting for what comes in its own time. Imports nothing: the incumbent's environment uses it, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Seconds after which whoever waits gives up, if nothing else is said: long, as it only ends what hangs,
#: and the machine may be slow and busy. What takes its time by right is waited for no longer than it takes.
patience = 45.0


def eventually(
    condition: Callable[[], Any],
    within: float | None = None,
    what: str | Callable[[], str] = "",
    every: float = 0.005,
) -> Any:
    """Wait until `condition` is true and return what it returned; `within` and `every` in seconds.

    :param within: `patience` if not given
    :param what: what is waited for, or a function that says how things are when the time is over
    """
    within = patience if within is None else within
    deadline = time.monotonic() + within
    while not (outcome := condition()):
        if time.monotonic() >= deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"not within {within:g} s: {said or condition}")
        time.sleep(every)
    return outcome
