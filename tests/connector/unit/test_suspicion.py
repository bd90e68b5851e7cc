"""Which message is to blame: found by what was in hand alone, and by what comes first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pika
import pytest
from mq_connector.consumer.opened import Delivery
from mq_connector.consumer.opened.messages import deliveries_before
from mq_connector.consumer.workers.suspicion import Suspicion
from pika.spec import Basic


def delivery(body: bytes = b"x", redelivered: bool = False, count: Any = None) -> Delivery:
    headers = None if count is None else {"x-delivery-count": count}
    opened: Any = SimpleNamespace()
    method = Basic.Deliver("tag", 1, redelivered, "", "queue")
    return Delivery(opened, method, pika.BasicProperties(headers=headers), body)


@pytest.mark.parametrize(
    ("count", "found"), [(None, None), (3, 3), (0, 0), (-60, None), (True, None), ("3", None)]
)
def test_only_a_count_that_a_broker_writes_counts(count: Any, found: int | None) -> None:
    assert deliveries_before(delivery(count=count)) == found


def test_a_process_begins_careful_until_something_new_comes() -> None:
    suspicion = Suspicion()
    assert suspicion.is_careful
    assert suspicion.suspects(delivery(redelivered=True))
    assert not suspicion.suspects(delivery())
    assert not suspicion.is_careful


def test_the_first_message_of_a_process_that_was_in_hand_at_three_deaths_is_not_tried() -> None:
    assert "3 times" in Suspicion().verdict(delivery(redelivered=True, count=3))
    assert not Suspicion().verdict(delivery(redelivered=True, count=2))


def test_of_those_behind_the_first_none_is_taken_for_the_culprit() -> None:
    suspicion = Suspicion()
    assert not suspicion.verdict(delivery(b"first", redelivered=True, count=1))
    assert not suspicion.verdict(delivery(b"second", redelivered=True, count=9))


def test_a_message_alone_in_hand_at_two_losses_is_not_tried_again() -> None:
    suspicion = Suspicion()
    assert not suspicion.verdict(delivery())
    suspicion.lost(1, delivery())
    assert suspicion.is_careful and not suspicion.verdict(delivery(redelivered=True))
    suspicion.lost(1, delivery())
    assert "2 times" in suspicion.verdict(delivery(redelivered=True))
    assert not suspicion.verdict(delivery(b"another", redelivered=True))


def test_care_ends_when_all_that_was_in_hand_has_been_handled() -> None:
    suspicion = Suspicion()
    suspicion.relax()
    suspicion.lost(3, None)
    for _ in range(3 + 20):
        assert suspicion.suspects(delivery()), "the broker may be slow to put back what was in hand"
        assert suspicion.is_careful
        suspicion.passed()
    assert not suspicion.is_careful


def test_a_message_that_hangs_three_times_is_not_tried_again_whatever_went_well_meanwhile() -> None:
    suspicion = Suspicion()
    for _ in range(3):
        assert not suspicion.verdict(delivery(b"hangs"))
        suspicion.hangs(delivery(b"hangs"))
        for _ in range(1000):
            assert not suspicion.verdict(delivery(b"another"))
            suspicion.suspects(delivery(b"another"))
            suspicion.passed()
            suspicion.returned(delivery(b"another"))
        suspicion.relax()
        assert suspicion.is_alert and not suspicion.is_careful, "known, so all else goes on"
    assert "3 times" in suspicion.verdict(delivery(b"hangs", redelivered=True))
    assert not suspicion.is_alert


def test_a_message_that_hung_and_then_was_in_time_is_forgotten() -> None:
    suspicion = Suspicion()
    suspicion.relax()
    suspicion.hangs(delivery())
    suspicion.hangs(delivery())
    suspicion.returned(delivery())
    assert not suspicion.is_alert
