"""Nothing that a callback does may end the threads that run callbacks, or lose a message."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

import pytest
from mq_connector import RetryMessage, payload
from mq_connector.config import Limits
from mq_connector.consumer.workers import Workers
from mq_connector.consumer.workers.suspicion import Suspicion

from .working import Callback, Delivered, Make, channels, errors, idle, make, nothing_left

__all__ = ["errors", "make", "nothing_left"]


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


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("it was settled", "had been settled when its handler failed"),
        ("its channel was lost", "failed and comes again, as its channel is gone"),
    ],
)
def test_what_can_t_be_dead_lettered_any_more_is_not_said_to_be(
    caplog: pytest.LogCaptureFixture, before: str, says: str
) -> None:
    delivered = Delivered(7, message_id="m7")

    def fail(*_: Any) -> None:
        if before == "it was settled":
            delivered.opened.ack(7)
        else:
            delivered.opened.is_open = False
        raise ValueError("too late")

    with caplog.at_level(logging.ERROR):
        idle(fail).workers.handle(delivered.delivery)
    assert f"message 'm7' of 'input' {says}: ValueError: too late" in caplog.text
    assert "is dead-lettered" not in caplog.text


def test_a_bad_body_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        idle(decode).workers.handle(Delivered(7, b"%%%").delivery)
    assert "message without an id of 'input' is dead-lettered: PayloadError" in caplog.text
    assert "Traceback" not in caplog.text


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


def test_what_fails_beside_callbacks_costs_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    """As where a callback has closed files that aren't its own, the connector's among them."""
    handled: list[int] = []
    suspicion = Suspicion()
    suspicion.relax()
    failures = iter([OSError(9, "Bad file descriptor"), SystemExit(3)])

    def fail() -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    workers = Workers(
        Limits(workers=1),
        "w",
        lambda channel, method, *_: handled.append(method.delivery_tag),
        lambda delivery: channels[delivery],
        lambda error: None,
        suspicion,
        on_pace=fail,
    )
    thread = threading.Thread(target=workers.work, daemon=True)
    thread.start()
    messages = [Delivered(tag) for tag in range(1, 4)]
    for each in messages:
        workers.prefetch = 0  # so that another prefetch is asked for
        workers.inbox.put(each.delivery)
        each.wait()
    assert [each.outcome.settled for each in messages] == ["requeue", "requeue", "ack"]
    assert handled == [3]
    assert not workers.why_unhealthy
    assert "a worker has failed beside its callback" in caplog.text
    workers.stop()
    thread.join(60)
    assert not thread.is_alive()
