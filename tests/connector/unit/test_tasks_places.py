"""Callbacks that are async: the places that their tasks have, and what waits for one."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from mq_connector.consumer.workers import tasks
from mq_connector.consumer.workers.suspicion import _mark
from waiting import eventually

from .working import PATIENCE, Delivered, Make, Running, errors, make, no_channels_left

__all__ = ["errors", "make", "no_channels_left"]


def test_others_take_over_from_a_task_that_is_late_and_its_message_is_struck(make: Make) -> None:
    may_end = threading.Event()

    async def callback(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        while body == b"late" and not may_end.is_set():
            await asyncio.sleep(0.01)

    one = make(callback)
    late, next_one = Delivered(1, b"late"), Delivered(2)
    one.put(late)
    eventually(lambda: any(each.delivery for each in one.workers.tasks.places))
    one.workers.replace_late(late.delivery.opened)
    assert one.suspicion.is_alert
    one.put(next_one)
    assert next_one.wait().settled == "ack"
    assert late.outcome.settled == ""
    may_end.set()
    late.wait()
    eventually(lambda: len(one.workers.tasks.places) == 1, PATIENCE)


def in_hand(one: Running) -> int:
    return sum(place.delivery is not None for place in one.workers.tasks.places)


def test_every_place_that_hangs_is_told_of(make: Make) -> None:
    may_end = threading.Event()

    async def callback(*_: Any) -> None:
        while not may_end.is_set():
            await asyncio.sleep(0.01)

    one = make(callback)
    for tag in range(1, 5):
        delivered = Delivered(tag, b"%d" % tag)
        one.put(delivered)
        eventually(lambda: in_hand(one) == tag, PATIENCE)  # noqa: B023
        one.workers.replace_late(delivered.delivery.opened)
    assert "longer than the broker waits" in one.workers.why_unhealthy
    may_end.set()
    eventually(lambda: not one.workers.why_unhealthy, PATIENCE)


def test_while_there_is_a_suspicion_a_task_counts_when_it_is_over(make: Make) -> None:
    may_end = threading.Event()

    async def callback(*_: Any) -> None:
        while not may_end.is_set():
            await asyncio.sleep(0.01)

    one = make(callback)
    one.suspicion.lost(1, None)
    one.suspicion.relax()
    one.suspicion.lost(0, None)  # for 20 messages
    before = one.suspicion._careful_for
    delivered = Delivered(redelivered=True)
    one.put(delivered)
    eventually(lambda: any(each.delivery for each in one.workers.tasks.places))
    assert one.suspicion._careful_for == before
    may_end.set()
    delivered.wait()
    eventually(lambda: one.suspicion._careful_for == before - 1)


def test_what_waits_for_a_place_at_the_end_is_not_begun(make: Make) -> None:
    begun: list[int] = []
    cancelled: list[int] = []

    async def go_on(tag: int) -> None:
        begun.append(tag)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(tag)
            raise

    # With two threads, both of which wait in the end: for room among those that wait for a place.
    one = make(lambda _channel, method, *_: go_on(method.delivery_tag), 2)
    deliveries = [Delivered(tag) for tag in range(1, 5 + tasks._AHEAD)]
    one.put(*deliveries)
    eventually(lambda: len(begun) == 2 and one.workers.inbox.empty())
    one.workers.stop()
    for thread in one.threads():
        thread.join(PATIENCE)
        assert not thread.is_alive()
    eventually(lambda: sorted(cancelled) == sorted(begun), PATIENCE)
    assert len(begun) == 2
    assert [each.outcome.settled for each in deliveries] == [""] * len(deliveries)


def test_what_waits_for_a_place_is_handed_back_and_its_order_kept(make: Make) -> None:
    may_end = threading.Event()
    begun: list[int] = []

    async def go_on(tag: int) -> None:
        begun.append(tag)
        while not may_end.is_set():
            await asyncio.sleep(0.01)

    one = make(lambda _channel, method, *_: go_on(method.delivery_tag))
    deliveries = [Delivered(tag) for tag in range(1, 11)]
    one.put(*deliveries)
    eventually(lambda: begun and len(one.workers.tasks._waiting) == 9)
    deliveries[4].opened.is_open = False  # as after a loss
    assert one.workers.tasks._waiting[0].delivery is deliveries[1].delivery
    may_end.set()
    for each in [*deliveries[:4], *deliveries[5:]]:
        assert each.wait().settled == "ack"
    assert begun == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    may_end.clear()
    more = [Delivered(tag) for tag in range(11, 14)]
    one.put(*more)
    eventually(lambda: 11 in begun and len(one.workers.tasks._waiting) == 2)
    assert one.workers.hand_back() == 2
    assert [each.outcome.settled for each in more] == ["", "requeue", "requeue"]
    assert one.workers.hand_back() == 0
    may_end.set()
    assert more[0].wait().settled == "ack"
    eventually(lambda: in_hand(one) == 0)
    assert begun[-1] == 11


def test_more_than_may_wait_for_a_place_are_handled_all_the_same(make: Make) -> None:
    may_end = threading.Event()

    async def callback(*_: Any) -> None:
        while not may_end.is_set():
            await asyncio.sleep(0.01)

    one = make(callback)
    deliveries = [Delivered(tag) for tag in range(1, 3 * tasks._AHEAD)]
    one.put(*deliveries)
    eventually(lambda: len(one.workers.tasks._waiting) == tasks._AHEAD + 1)
    may_end.set()
    for each in deliveries:
        assert each.wait().settled == "ack"


def test_what_waits_behind_a_task_that_is_late_is_not_struck_and_goes_back_with_the_others(
    make: Make,
) -> None:
    """Also the one whose worker waits for room among those that wait for a place."""
    may_end = threading.Event()

    async def callback(*rest: Any) -> None:
        while rest[3] == b"late" and not may_end.is_set():
            await asyncio.sleep(0.01)

    one = make(callback)
    late, *innocent = deliveries = [
        Delivered(tag, b"late" if tag == 1 else b"%d" % tag) for tag in range(1, 2 * tasks._AHEAD)
    ]
    for each in innocent:
        each.delivery.opened = late.delivery.opened
    one.put(*deliveries)
    in_inbox = len(innocent) - tasks._AHEAD - 1
    eventually(lambda: one.workers.inbox.qsize() == in_inbox and one.workers._workers[0].waits)
    # As on a broker that closes the channel, and on one that cancels the consumer.
    one.workers.replace_late(late.delivery.opened)
    assert list(one.suspicion._hangs) == [_mark(late.delivery)]
    assert len(one.threads()) == 1, "the one that begins tasks hangs in none of them"
    may_end.set()
    eventually(lambda: late.opened.steps.count("ack") == len(deliveries), PATIENCE)


def test_the_message_whose_worker_waits_for_room_is_handed_back_too(make: Make) -> None:
    may_end = threading.Event()

    async def callback(*_: Any) -> None:
        while not may_end.is_set():
            await asyncio.sleep(0.01)

    one = make(callback)
    first, *others = deliveries = [Delivered(tag) for tag in range(1, 3 + tasks._AHEAD)]
    one.put(*deliveries)
    eventually(lambda: one.workers._workers[0].waits)
    assert one.workers.hand_back() == len(others) == tasks._AHEAD + 1
    assert [each.outcome.settled for each in others] == ["requeue"] * len(others)
    may_end.set()
    assert first.wait().settled == "ack"


def test_a_failure_to_settle_leaves_the_place_to_the_next_message(make: Make) -> None:
    async def callback(*rest: Any) -> None:
        if rest[3] == b"bad":
            raise ValueError

    one = make(callback)

    def raised(*_: Any) -> str:
        raise RuntimeError("whatever an observer does")

    settling: Any = one.workers.settling
    settling.raised = raised
    good = Delivered(2)
    one.put(Delivered(1, b"bad"), good)
    assert good.wait().settled == "ack"


class Odd:
    """Can be awaited, and has a ``close`` that is no coroutine's."""

    def __init__(self, may_end: threading.Event) -> None:
        self._may_end = may_end

    def __await__(self) -> Any:
        while not self._may_end.is_set():
            yield from asyncio.sleep(0.01).__await__()

    def close(self, code: int) -> None:
        raise AssertionError("nobody's to call")


def test_what_has_another_close_is_dropped_without_it(make: Make) -> None:
    may_end = threading.Event()
    one = make(lambda *_: Odd(may_end))
    deliveries = [Delivered(tag) for tag in range(1, 5)]
    one.put(*deliveries)
    eventually(lambda: len(one.workers.tasks._waiting) == 3)
    deliveries[1].opened.is_open = False  # as after a loss
    may_end.set()
    for each in (deliveries[0], *deliveries[2:]):
        assert each.wait().settled == "ack"
    may_end.clear()
    one.put(*[Delivered(tag) for tag in range(5, 8)])
    eventually(lambda: len(one.workers.tasks._waiting) == 2)
    assert one.workers.hand_back() == 2
    may_end.set()
