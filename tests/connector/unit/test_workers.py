"""The threads that run callbacks: nothing that a callback does may end them or lose a message."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from mq_connector import RetryMessage, payload
from mq_connector.config import Limits
from mq_connector.consumer.opened import Confirms, Delivery, Prefetch
from mq_connector.consumer.workers import Workers
from mq_connector.consumer.workers.suspicion import Suspicion, _mark
from mq_connector.errors import PublishError
from mq_connector.testing import Outcome
from mq_connector.testing.recording import RecordingChannel, RecordingOpened
from pika.spec import Basic
from waiting import eventually

PATIENCE = 60.0
Callback = Callable[..., None]


class Opened(RecordingOpened):
    """The channel that one message has come by; notes how it is settled, and in which order with what."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.is_open = True
        self.steps: list[str] = []
        self.settled = threading.Event()

    def ack(self, tag: int, multiple: bool = False) -> None:
        self._note("ack")

    def reject(self, tag: int, requeue: bool) -> None:
        self._note("requeue" if requeue else "dead-letter")

    def nack(self, tag: int, requeue: bool) -> None:
        self._note("requeue" if requeue else "dead-letter")

    def reject_later(self, tag: int, seconds: float) -> None:
        self._note(f"requeue after {seconds:g} s")

    def _note(self, how: str) -> None:
        self.steps.append(how)
        self._outcome.settle(how)
        self.settled.set()


class Delivered:
    """A message handed to workers, and what came of it."""

    def __init__(
        self, tag: int = 1, body: bytes = b"", redelivered: bool = False, **properties: Any
    ) -> None:
        self.outcome = Outcome()
        self.opened = Opened(self.outcome)
        self.channel: Any = RecordingChannel(self.outcome)
        method = Basic.Deliver("ctag", tag, redelivered, "", "input")
        opened: Any = self.opened
        self.delivery = Delivery(opened, method, pika.BasicProperties(**properties), body)
        channels[self.delivery] = self.channel

    def wait(self) -> Outcome:
        assert self.opened.settled.wait(PATIENCE)
        return self.outcome


#: The channel that the callback gets with each delivery.
channels: dict[Delivery, Any] = {}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    channels.clear()


@pytest.fixture
def errors() -> list[Exception]:
    return []


class Running:
    """Workers, the first of which is a thread of ours."""

    def __init__(self, callback: Callback, errors: list[Exception], limits: Limits, **options: Any):
        self.suspicion = Suspicion()
        self.workers = Workers(
            limits,
            "test",
            callback,
            channels.__getitem__,
            errors.append,
            self.suspicion,
            **options,
        )
        self.thread = threading.Thread(target=self.workers.work)

    def start(self) -> Running:
        self.workers.start()
        self.thread.start()
        return self

    def put(self, *deliveries: Delivered) -> None:
        for each in deliveries:
            self.workers.inbox.put(each.delivery)

    def threads(self) -> list[threading.Thread]:
        return [each.thread for each in self.workers._workers]


Make = Callable[..., Running]


@pytest.fixture
def make(errors: list[Exception]) -> Iterator[Make]:
    """Start workers; all of them end with the test."""
    made: list[Running] = []

    def start(callback: Callback, count: int = 1, **options: Any) -> Running:
        limits = options.pop("limits", None) or Limits(workers=count)
        made.append(Running(callback, errors, limits, **options).start())
        return made[-1]

    yield start
    for each in made:
        each.workers.stop()
        for thread in each.threads():
            thread.join(PATIENCE)
            assert not thread.is_alive()


def idle(callback: Callback, errors: list[Exception] | None = None) -> Running:
    """Workers that haven't begun."""
    return Running(callback, [] if errors is None else errors, Limits(workers=1))


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


# ---- what the callback has published must be confirmed first


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


# ---- failures


def leave(*_: Any) -> None:
    sys.exit(3)


def cancel(*_: Any) -> None:
    raise asyncio.CancelledError


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


class Unspeakable(BaseException):
    """Raises when it is printed."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class UnspeakableError(Exception):
    """The same as an ordinary exception."""

    __str__ = __repr__ = Unspeakable.__str__


def mumble(*_: Any) -> None:
    raise Unspeakable


def stammer(*_: Any) -> None:
    raise UnspeakableError


def divide(*_: Any) -> None:
    raise ZeroDivisionError("division by zero")


def decode(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
    payload.decode(body)


@pytest.mark.parametrize("callback", [divide, leave, cancel, interrupt, mumble, stammer])
def test_whatever_a_callback_raises_the_next_message_is_handled(
    make: Make, errors: list[Exception], callback: Callback
) -> None:
    one = make(lambda channel, method, *_: callback() if method.delivery_tag == 1 else None)
    bad = Delivered(1, payload.encode({"routing_key": "reply", "message_id": "m"}))
    good = Delivered(2)
    one.put(bad, good)
    assert bad.wait().settled == "dead-letter"
    assert good.wait().settled == "ack"
    [reply] = bad.outcome.published
    assert reply.routing_key == "reply"
    assert (reply.data["success"], reply.data["message_id"]) == (False, "m")
    assert len(errors) == 1


@pytest.mark.parametrize(("code", "told"), [(None, "SystemExit"), ("bye", "SystemExit: bye")])
def test_a_handler_that_exits_is_shown_with_the_line_where_it_did(
    make: Make, caplog: pytest.LogCaptureFixture, code: object, told: str
) -> None:
    def callback(*_: Any) -> None:
        raise SystemExit(*[code] * (code is not None))

    bad = Delivered(1, payload.encode({"routing_key": "reply"}))
    make(callback).put(bad)
    assert bad.wait().settled == "dead-letter"
    [reply] = bad.outcome.published
    said = f"RuntimeError: the handler raised {told}, which ends this request alone"
    assert reply.data["error"] == said
    assert said in caplog.text and "raise SystemExit(" in caplog.text


def test_the_error_leaves_before_the_message_is_dead_lettered() -> None:
    delivered = Delivered(1, payload.encode({"routing_key": "reply"}))
    publish = delivered.channel.basic_publish

    def note(*arguments: Any) -> None:
        delivered.opened.steps.append("publish")
        publish(*arguments)

    delivered.channel.basic_publish = note
    idle(divide).workers.handle(delivered.delivery)
    assert delivered.opened.steps == ["publish", "dead-letter"]


def test_an_error_reply_that_cannot_be_sent_does_not_keep_the_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivered = Delivered(1, payload.encode({"routing_key": "reply"}))

    def refuse(*_: Any) -> None:
        raise ValueError("routing key is too long")

    delivered.channel.basic_publish = refuse
    idle(divide).workers.handle(delivered.delivery)
    assert delivered.outcome.settled == "dead-letter"
    assert "no error reply could be sent" in caplog.text


def test_a_message_that_was_settled_before_its_failure_is_not_answered() -> None:
    delivered = Delivered(1, payload.encode({"routing_key": "reply"}))

    def settle_and_fail(*_: Any) -> None:
        delivered.opened.ack(1)
        raise ValueError("afterwards")

    idle(settle_and_fail).workers.handle(delivered.delivery)
    assert delivered.outcome.published == []
    assert delivered.outcome.settled == "ack"


def test_a_failure_is_logged_with_the_message_and_where_it_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        idle(divide).workers.handle(Delivered(7, message_id="m7").delivery)
    assert (
        "message 'm7' of 'input' is dead-lettered: ZeroDivisionError: division by zero"
        in caplog.text
    )
    assert "Traceback" in caplog.text


def test_a_bad_body_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        idle(decode).workers.handle(Delivered(7, b"%%%").delivery)
    assert "message without an id of 'input' is dead-lettered: PayloadError" in caplog.text
    assert "Traceback" not in caplog.text


# ---- retries


def retry(*_: Any) -> None:
    raise RetryMessage(0.5)


@pytest.mark.parametrize(
    ("count", "redelivered", "settled"),
    [
        (None, False, "requeue after 0.5 s"),
        (None, True, "dead-letter"),
        (0, False, "requeue after 0.5 s"),
        (3, True, "requeue after 4 s"),
        (19, True, "requeue after 60 s"),
        (20, True, "dead-letter"),
        (10**9, True, "dead-letter"),
        ("many", False, "requeue after 0.5 s"),
    ],
)
def test_a_retry_waits_longer_each_time_and_has_an_end(
    count: Any, redelivered: bool, settled: str
) -> None:
    headers = {} if count is None else {"x-delivery-count": count}
    delivered = Delivered(1, redelivered=redelivered, headers=headers)
    idle(retry).workers.handle(delivered.delivery)
    assert delivered.outcome.settled == settled


@pytest.mark.parametrize("delay", [-1, -0.001, float("nan")])
def test_a_retry_s_delay_that_is_no_time_is_an_error_where_it_is_written(delay: float) -> None:
    """On the loop it would only be logged, and the message would stay in hand."""
    with pytest.raises(ValueError, match="must be 0 s or more"):
        RetryMessage(delay)


# ---- how many messages are worth having in hand


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
    assert not one.workers.pace.said
    one.workers.inbox.put(Prefetch(7))
    eventually(lambda: one.workers.pace.said)
    eventually(lambda: told)
    assert one.workers.pace.wanted(0) == one.workers.pace.wanted(5) == 7
    one.workers.inbox.put(Prefetch(0))
    eventually(lambda: not one.workers.pace.said)
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


# ---- workers that hang


def test_others_take_over_from_threads_whose_messages_are_late(make: Make) -> None:
    release, begun = threading.Event(), threading.Event()

    def hang(_channel: Any, method: Any, *_: Any) -> None:
        if method.delivery_tag == 1:
            begun.set()
            release.wait(PATIENCE)

    one = make(hang)
    late, waiting = Delivered(1), Delivered(2)
    one.put(late)
    assert begun.wait(PATIENCE)
    one.put(waiting)
    opened: Any = Delivered().opened
    one.workers.replace_late(opened)
    assert len(one.threads()) == 1, "its message came by another channel"
    late_opened: Any = late.opened
    one.workers.replace_late(late_opened)
    one.workers.replace_late(late_opened)
    assert waiting.wait().settled == "ack"
    assert len(one.threads()) == 2, "one for each, once"
    release.set()
    one.thread.join(PATIENCE)
    assert not one.thread.is_alive(), "who was replaced ends with what it has in hand"


def test_threads_that_hang_again_and_again_are_not_replaced_without_an_end(make: Make) -> None:
    release = threading.Event()
    hanging = threading.Semaphore(0)

    def hang(*_: Any) -> None:
        hanging.release()
        release.wait(PATIENCE)

    one = make(hang)
    for number in range(4):
        late = Delivered(number, b"%d" % number)
        one.put(late)
        assert hanging.acquire(timeout=PATIENCE)
        opened: Any = late.opened
        one.workers.replace_late(opened)
    time.sleep(0.05)
    assert len(one.threads()) == 4
    release.set()


def test_only_the_message_that_is_late_is_struck_and_its_thread_replaced(make: Make) -> None:
    """The broker closes the channel of all; another worker was just busy."""
    release, begun = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any) -> None:
        begun.release()
        release.wait(PATIENCE)

    one = make(hang, count=2)
    one.suspicion.relax()
    late, innocent = Delivered(1, b"late"), Delivered(2, b"innocent")
    innocent.delivery.opened = late.delivery.opened
    one.put(late)
    assert begun.acquire(timeout=PATIENCE)
    time.sleep(0.3)
    one.put(innocent)
    assert begun.acquire(timeout=PATIENCE)
    one.workers.replace_late(late.delivery.opened)
    assert list(one.suspicion._hangs) == [_mark(late.delivery)]
    assert len(one.threads()) == 3
    release.set()


def test_a_thread_that_came_back_may_be_replaced_again(make: Make) -> None:
    """Late is not for ever: only those that hang at the same time are counted."""
    release, begun = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any) -> None:
        begun.release()
        release.wait(PATIENCE)

    one = make(hang)
    for number in range(6):
        late = Delivered(number, b"%d" % number)
        one.put(late)
        assert begun.acquire(timeout=PATIENCE)
        opened: Any = late.opened
        one.workers.replace_late(opened)
        one.put(Delivered(100 + number))
        assert begun.acquire(timeout=60), f"nobody takes over for the {number + 1}th time"
        release.set()
        eventually(lambda: len(one.threads()) == 1, PATIENCE)
        release.clear()


def test_it_says_so_when_every_worker_hangs_and_none_can_be_replaced(make: Make) -> None:
    release, begun = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any) -> None:
        begun.release()
        release.wait(PATIENCE)

    one = make(hang)
    for number in range(4):
        assert one.workers.why_unhealthy == ""
        late = Delivered(number, b"%d" % number)
        one.put(late)
        assert begun.acquire(timeout=PATIENCE)
        opened: Any = late.opened
        one.workers.replace_late(opened)
    eventually(lambda: one.workers.why_unhealthy, PATIENCE)
    assert "longer than the broker waits" in one.workers.why_unhealthy
    release.set()
    eventually(lambda: not one.workers.why_unhealthy, PATIENCE)


def test_it_says_so_when_every_worker_is_stuck_or_dead(make: Make) -> None:
    release = threading.Event()
    one = make(lambda *_: release.wait(PATIENCE), limits=Limits(workers=2, stuck=1))
    first, second = Delivered(1), Delivered(2)
    one.put(first)
    time.sleep(1.2)
    assert one.workers.why_unhealthy == "", "one of them is free"
    one.put(second)
    time.sleep(0.1)
    assert one.workers.why_unhealthy == ""
    eventually(
        lambda: (
            one.workers.why_unhealthy == "every worker has been in its callback for more than 1 s"
        )
    )
    release.set()
    second.wait()
    eventually(lambda: one.workers.why_unhealthy == "")
    one.workers.stop()
    eventually(lambda: one.workers.why_unhealthy == "no worker is alive")


def test_it_tells_for_how_long_nobody_has_been_free(make: Make) -> None:
    release = threading.Event()
    one = make(lambda *_: release.wait(PATIENCE), limits=Limits(workers=2))
    assert one.workers.busy_for == 0.0
    first, second = Delivered(1), Delivered(2)
    one.put(first)
    eventually(lambda: one.workers.busy == 1)
    assert one.workers.busy_for == 0.0, "one of them is free"
    one.put(second)
    eventually(lambda: one.workers.busy_for > 0.2)
    release.set()
    second.wait()
    eventually(lambda: one.workers.busy_for == 0.0)


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
