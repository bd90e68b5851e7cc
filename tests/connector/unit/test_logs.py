"""What repeats itself is told ever more rarely; what is new is told at once."""

from __future__ import annotations

import logging

import pytest
from mq_connector.logs import Complaints


def told(complaints: Complaints, what: str, times: int) -> list[int]:
    """Which of that many repetitions are more than a line for DEBUG."""
    return [number for number in range(1, times + 1) if complaints.level(what) == logging.WARNING]


def test_a_complaint_is_told_ever_more_rarely() -> None:
    assert told(Complaints(), "down", 300) == [1, 2, 4, 8, 16, 32, 64, 128, 192, 256]


def test_another_one_is_news_and_does_not_make_the_first_news_again() -> None:
    complaints = Complaints()
    assert told(complaints, "down", 3) == [1, 2]
    assert told(complaints, "refused", 3) == [1, 2]
    assert told(complaints, "down", 3) == [1]  # The fourth time.


def test_after_a_while_it_is_news_again(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints = Complaints()
    now = 1000.0
    monkeypatch.setattr("mq_connector.logs.time.monotonic", lambda: now)
    assert told(complaints, "lost", 3) == [1, 2]
    now += 3600
    assert told(complaints, "lost", 3) == [1, 2]


def test_ever_new_complaints_are_not_remembered_for_ever() -> None:
    complaints = Complaints()
    for number in range(1000):
        assert complaints.level(f"number {number}") == logging.WARNING
    assert len(complaints._heard) == 16
