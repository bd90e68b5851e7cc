"""How many messages workers want to have in hand."""

from __future__ import annotations

import threading
import time

from mq_connector.config import Limits
from mq_connector.consumer.opened import Prefetch
from waiting import eventually

from .working import Delivered, Make, errors, make, nothing_left

__all__ = ["errors", "make", "nothing_left"]


def test_quick_callbacks_get_many_messages_and_slow_ones_few(make: Make) -> None:
    pause = [0.0]
    one = make(lambda *_: time.sleep(pause[0]))
    assert one.workers.pace.wanted(0) == 2, "before anything is known"
    quick = [Delivered(tag) for tag in range(1, 30)]
    one.put(*quick)
    quick[-1].wait()
    eventually(lambda: one.workers.pace.wanted(0) > 20)
    assert one.workers.pace.wanted(0) <= 200
    pause[0] = 0.1
    slow = [Delivered(tag) for tag in range(1, 20)]
    one.put(*slow)
    slow[-1].wait()
    eventually(lambda: one.workers.pace.wanted(0) <= 4)
    assert one.workers.pace.wanted(5) == one.workers.pace.wanted(0) + 10, (
        "those that wait occupy nobody"
    )


def test_it_is_told_now_and_then_that_the_pace_may_have_changed(make: Make) -> None:
    told: list[int] = []
    one = make(lambda *_: None, on_pace=lambda: told.append(1))
    one.workers.prefetch = 50
    deliveries = [Delivered(tag) for tag in range(1, 101)]
    one.put(*deliveries)
    deliveries[-1].wait()
    assert 5 <= len(told) <= 30


def test_while_there_are_too_few_messages_for_all_workers_it_is_told_of_each(make: Make) -> None:
    told: list[int] = []
    one = make(lambda *_: None, on_pace=lambda: told.append(1))
    one.suspicion.relax()
    one.workers.prefetch = 1
    deliveries = [Delivered(tag) for tag in range(1, 21)]
    one.put(*deliveries)
    deliveries[-1].wait()
    assert len(told) >= 20


def test_a_handler_may_say_how_many_messages_are_to_be_in_hand(make: Make) -> None:
    told: list[int] = []
    one = make(lambda *_: None, on_pace=lambda: told.append(1))
    assert not one.workers.pace.prefetch
    one.workers.inbox.put(Prefetch(7))
    eventually(lambda: one.workers.pace.prefetch)
    eventually(lambda: told)
    assert one.workers.pace.wanted(0) == one.workers.pace.wanted(5) == 7
    one.workers.inbox.put(Prefetch(0))
    eventually(lambda: not one.workers.pace.prefetch)
    assert one.workers.pace.wanted(0) == 2


def test_one_message_in_hand_is_enough_where_a_handler_says_so(make: Make) -> None:
    """It isn't asked for more after each of them."""
    told: list[int] = []
    one = make(lambda *_: None, on_pace=lambda: told.append(1))
    one.suspicion.relax()
    one.workers.prefetch = 1
    one.workers.inbox.put(Prefetch(1))
    deliveries = [Delivered(tag) for tag in range(1, 21)]
    one.put(*deliveries)
    deliveries[-1].wait()
    assert 1 <= len(told) <= 6


def test_what_the_operator_says_counts_more(make: Make) -> None:
    one = make(lambda *_: None, limits=Limits(prefetch=5))
    one.workers.inbox.put(Prefetch(7))
    heard = threading.Event()
    one.workers.inbox.put(heard.set)
    assert heard.wait(5)
    assert one.workers.pace.wanted(0) == 5
