"""The threads that run callbacks: what they take, in which order, and when it is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mq_connector import payload
from mq_connector.config import Limits
from mq_connector.consumer.opened import Confirms
from mq_connector.errors import PublishError

from .working import PATIENCE, Delivered, Make, Running, errors, idle, make, nothing_left

__all__ = ["errors", "make", "nothing_left"]


def test_one_worker_keeps_the_order(make: Make) -> None:
    seen: list[int] = []
    one = make(lambda channel, method, properties, body: seen.append(method.delivery_tag))
    deliveries = [Delivered(tag) for tag in range(1, 51)]
    one.put(*deliveries)
    for each in deliveries:
        assert each.wait().settled == "ack"
    assert seen == list(range(1, 51))


def test_several_workers_handle_as_many_messages_at_a_time(make: Make) -> None:
    together = threading.Barrier(4)
    one = make(lambda *_: together.wait(PATIENCE), count=4)
    deliveries = [Delivered() for _ in range(4)]
    one.put(*deliveries)
    assert [each.wait().settled for each in deliveries] == ["ack"] * 4


def test_the_first_worker_is_the_thread_that_calls(make: Make) -> None:
    seen: list[threading.Thread] = []
    one = make(lambda *_: seen.append(threading.current_thread()))
    delivered = Delivered()
    one.put(delivered)
    delivered.wait()
    assert seen == [one.thread]


def test_without_ack_on_return_a_message_is_left_to_its_callback(make: Make) -> None:
    seen = threading.Event()
    one = make(lambda *_: seen.set(), ack_on_return=False)
    delivered = Delivered()
    one.put(delivered)
    assert seen.wait(PATIENCE)
    one.workers.stop()
    one.thread.join(PATIENCE)
    assert delivered.opened.steps == []


def test_what_no_worker_has_begun_is_handed_back() -> None:
    one = idle(lambda *_: None)
    deliveries = [Delivered() for _ in range(3)]
    one.put(*deliveries)
    one.workers.stop()
    assert one.workers.hand_back() == 3
    assert [each.outcome.settled for each in deliveries] == ["requeue"] * 3
    assert one.workers.hand_back() == 0


def test_what_else_a_worker_is_to_do_is_not_handed_back() -> None:
    """Nor is its end: it would wait for ever."""
    one = idle(lambda *_: None)
    done: list[int] = []
    one.workers.inbox.put(lambda: done.append(1))
    one.put(Delivered())
    one.workers.stop()
    assert one.workers.hand_back() == 1
    one.workers.work()
    assert done == [1]


def test_messages_of_a_channel_that_is_gone_are_not_handled(make: Make) -> None:
    handled: list[int] = []
    one = make(lambda channel, method, *_: handled.append(method.delivery_tag))
    stale, fresh = Delivered(1), Delivered(2)
    stale.opened.is_open = False
    one.put(stale, fresh)
    fresh.wait()
    assert handled == [2]
    assert stale.outcome.settled == ""


def confirming(delivered: Delivered) -> tuple[Confirms, list[Callable[[], object]]]:
    calls: list[Callable[[], object]] = []
    confirms = delivered.delivery.confirms = Confirms(calls.append)
    confirms.expect()
    return confirms, calls


def turn(calls: list[Callable[[], object]]) -> None:
    waiting, calls[:] = list(calls), []
    for call in waiting:
        call()


def test_a_message_is_acknowledged_when_what_it_has_led_to_is_confirmed() -> None:
    delivered = Delivered()
    confirms, calls = confirming(delivered)
    idle(lambda *_: None).workers.handle(delivered.delivery)
    turn(calls)
    assert delivered.opened.steps == []
    confirms.outcome(None)
    turn(calls)
    assert delivered.opened.steps == ["ack"]


def test_the_broker_s_no_to_a_publish_is_its_message_s_failure(
    make: Make, errors: list[Exception]
) -> None:
    one = make(lambda *_: None)
    delivered = Delivered(1, payload.encode({"routing_key": "reply", "message_id": "m"}))
    confirms, calls = confirming(delivered)
    one.workers.handle(delivered.delivery)
    confirms.outcome(PublishError("404 NOT_FOUND - no exchange 'events'"))
    turn(calls)
    assert delivered.wait().settled == "dead-letter"
    [reply] = delivered.outcome.published
    assert reply.data["message_id"] == "m"
    assert "404 NOT_FOUND" in str(errors[0])


def test_of_consumers_with_different_bounds_each_keeps_its_own(make: Make) -> None:
    """Also of one that starts later, and of workers that are there when it does."""
    body = payload.encode({"text": "x" * 1000})

    def consumer(max_body: int) -> Running:
        limits = Limits(max_body=max_body)
        return make(lambda *given: payload.decode(given[3]), limits=limits)

    def outcomes(*consumers: Running) -> list[str]:
        messages = [Delivered(body=body) for _ in consumers]
        for each, message in zip(consumers, messages, strict=True):
            each.put(message)
        for message in messages:
            message.wait()
        return [message.opened.steps[0] for message in messages]

    large = consumer(10_000)
    assert outcomes(large) == ["ack"]
    small = consumer(1000)
    assert outcomes(large, small, large, small) == ["ack", "dead-letter"] * 2
