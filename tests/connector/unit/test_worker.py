"""The threads that run callbacks: nothing that a callback does may end them or lose a message."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from mq_connector import RetryMessage, payload
from mq_connector.config import Limits
from mq_connector.consumer.workers import Workers
from mq_connector.testing import Outcome, _RecordingChannel
from pika.spec import Basic

PATIENCE = 10.0
Callback = Callable[..., None]


class Delivered:
    """A message handed to workers, and what came of it."""

    def __init__(self, tag: int = 1, body: bytes = b"", **properties: Any) -> None:
        self.outcome = Outcome()
        self.settled = threading.Event()
        channel = _RecordingChannel(self.outcome)
        settle = channel._settle

        def note(how: str) -> None:
            settle(how)
            self.settled.set()

        channel._settle = note
        self.channel: Any = channel
        method = Basic.Deliver("ctag", tag, False, "", "input")
        self.delivery: Any = (channel, method, pika.BasicProperties(**properties), body)

    def wait(self) -> Outcome:
        assert self.settled.wait(PATIENCE)
        return self.outcome


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def make(errors: list[Exception]) -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def workers(callback: Callback, count: int = 1) -> Workers:
        made.append(Workers(Limits(workers=count), "test", callback, errors.append))
        made[-1].start()
        return made[-1]

    yield workers
    for each in made:
        each.stop()
        for thread in each._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


Make = Callable[..., Workers]


def test_one_worker_keeps_the_order(make: Make) -> None:
    seen: list[int] = []
    workers = make(lambda channel, method, properties, body: seen.append(method.delivery_tag))
    deliveries = [Delivered(tag) for tag in range(1, 51)]
    for each in deliveries:
        workers.inbox.put(each.delivery)
    for each in deliveries:
        assert each.wait().settled == "ack"
    assert seen == list(range(1, 51))


def test_several_workers_handle_as_many_messages_at_a_time(make: Make) -> None:
    together = threading.Barrier(4)
    workers = make(lambda *_: together.wait(PATIENCE), count=4)
    deliveries = [Delivered() for _ in range(4)]
    for each in deliveries:
        workers.inbox.put(each.delivery)
    assert [each.wait().settled for each in deliveries] == ["ack"] * 4


def test_what_no_worker_has_begun_is_handed_back(errors: list[Exception]) -> None:
    workers = Workers(Limits(workers=1), "test", lambda *_: None, errors.append)  # not started
    deliveries = [Delivered() for _ in range(3)]
    for each in deliveries:
        workers.inbox.put(each.delivery)
    workers.stop()
    assert workers.hand_back() == 3
    assert [each.outcome.settled for each in deliveries] == ["requeue"] * 3
    assert workers.hand_back() == 0


def test_messages_of_a_channel_that_is_gone_are_not_handled(make: Make) -> None:
    handled: list[int] = []
    workers = make(lambda channel, method, *_: handled.append(method.delivery_tag))
    stale, fresh = Delivered(1), Delivered(2)
    stale.channel.is_open = False
    workers.inbox.put(stale.delivery)
    workers.inbox.put(fresh.delivery)
    fresh.wait()
    assert handled == [2]
    assert stale.outcome.settled == ""


# ---- failures


def leave(*_: Any) -> None:
    sys.exit(3)


def cancel(*_: Any) -> None:
    raise asyncio.CancelledError


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def divide(*_: Any) -> None:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize("callback", [divide, leave, cancel, interrupt])
def test_whatever_a_callback_raises_the_next_message_is_handled(
    make: Make, errors: list[Exception], callback: Callback
) -> None:
    workers = make(lambda channel, method, *_: callback() if method.delivery_tag == 1 else None)
    bad = Delivered(1, payload.encode({"routing_key": "reply", "message_id": "m"}))
    good = Delivered(2)
    workers.inbox.put(bad.delivery)
    workers.inbox.put(good.delivery)
    assert bad.wait().settled == "dead-letter"
    assert good.wait().settled == "ack"
    [reply] = bad.outcome.published
    assert reply.routing_key == "reply"
    assert (reply.data["success"], reply.data["message_id"]) == (False, "m")
    assert len(errors) == 1


def test_the_error_leaves_before_the_message_is_dead_lettered(make: Make) -> None:
    order: list[str] = []
    delivered = Delivered(1, payload.encode({"routing_key": "reply"}))
    channel = delivered.channel
    publish, reject = channel.basic_publish, channel.basic_reject
    channel.basic_publish = lambda *args: (order.append("publish"), publish(*args))
    channel.basic_reject = lambda *args, **options: (
        order.append("reject"),
        reject(*args, **options),
    )
    make(divide).inbox.put(delivered.delivery)
    delivered.wait()
    assert order == ["publish", "reject"]


def test_an_error_reply_that_cannot_be_sent_does_not_keep_the_message(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    delivered = Delivered(1, payload.encode({"routing_key": "q"}))

    def refuse(*_: Any) -> None:
        raise ValueError("too much is waiting")

    delivered.channel.basic_publish = refuse
    make(divide).inbox.put(delivered.delivery)
    assert delivered.wait().settled == "dead-letter"
    assert "no error reply could be sent" in caplog.text


def test_a_failure_is_logged_with_the_message_and_where_it_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers = Workers(Limits(workers=1), "test", divide, lambda _: None)
    with caplog.at_level(logging.ERROR):
        workers.handle(Delivered(7).delivery)
    assert (
        "message 7 of 'input' is dead-lettered: ZeroDivisionError: division by zero" in caplog.text
    )
    assert "Traceback" in caplog.text


def test_a_bad_body_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers(Limits(workers=1), "test", lambda *_: payload.decode(b"%%%"), lambda _: None)
    with caplog.at_level(logging.ERROR):
        workers.handle(Delivered(7).delivery)
    assert "message 7 of 'input' is dead-lettered: PayloadError" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("delay", [-1, -0.001, float("nan")])
def test_a_retry_s_delay_that_is_no_time_is_an_error_where_it_is_written(delay: float) -> None:
    """On the loop it would only be logged, and the message would stay in hand."""
    with pytest.raises(ValueError, match="must be 0 s or more"):
        RetryMessage(delay)
