"""Waiting for what comes in its own time. Imports nothing: the incumbent's environment uses it, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(
    condition: Callable[[], Any],
    within: float = 5.0,
    what: str | Callable[[], str] = "",
    every: float = 0.005,
) -> Any:
    """Wait until `condition` is true and return what it returned; `within` and `every` in seconds.

    :param what: what is waited for, or a function that says how things are when the time is over
    """
    deadline = time.monotonic() + within
    while not (outcome := condition()):
        if time.monotonic() >= deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"not within {within:g} s: {said or condition}")
        time.sleep(every)
    return outcome
