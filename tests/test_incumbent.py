"""The incumbent may hang or die now and then, and is tried again; ours isn't, and a wrong result counts."""

from __future__ import annotations

import subprocess

import pytest
from incumbent import INCUMBENT, TRIES, GaveNothing, tried


class Process:
    """One that fails a few times before it gives its result."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.allowed: list[float] = []
        self._failures, self._error = failures, error

    def __call__(self, seconds: float) -> str:
        self.allowed.append(seconds)
        if len(self.allowed) <= self._failures:
            raise self._error
        return "result"


@pytest.mark.parametrize("error", [GaveNothing("died"), subprocess.TimeoutExpired("it", 1)])
def test_it_is_tried_again_and_may_take_longer_each_time(error: Exception) -> None:
    process = Process(TRIES - 1, error)
    assert tried(INCUMBENT, process) == "result"
    assert process.allowed == sorted(process.allowed) and len(process.allowed) == TRIES
    with pytest.raises(type(error)):
        tried(INCUMBENT, Process(TRIES, error))


def test_ours_has_one_try_and_a_wrong_result_is_one() -> None:
    process = Process(1, GaveNothing("died"))
    with pytest.raises(GaveNothing):
        tried("ours", process)
    assert len(process.allowed) == 1
    process = Process(1, AssertionError("wrong"))
    with pytest.raises(AssertionError):
        tried(INCUMBENT, process)
    assert len(process.allowed) == 1
