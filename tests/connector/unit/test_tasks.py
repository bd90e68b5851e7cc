"""Callbacks that are async: what a task may do costs no more than what a thread may do."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector import RequestError, RetryMessage
from mq_connector.config import Limits
from mq_connector.consumer.opened import Confirms
from mq_connector.consumer.workers import Workers
from mq_connector.handlers.event_loop import event_loop
from mq_connector.handlers.shapes import is_async
from waiting import eventually

from .working import PATIENCE, Delivered, Make, channels, errors, make, no_channels_left

__all__ = ["errors", "make", "no_channels_left"]


def test_a_context_variable_that_the_callback_sets_is_there_in_its_task(make: Make) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    seen: list[int] = []

    async def go_on() -> None:
        await asyncio.sleep(0)
        seen.append(variable.get())

    def callback(_channel: Any, method: Any, *_: Any) -> Any:
        variable.set(method.delivery_tag)
        return go_on()

    one = make(callback, 2)
    deliveries = [Delivered(tag) for tag in range(1, 11)]
    one.put(*deliveries)
    for each in deliveries:
        assert each.wait().settled == "ack"
    assert sorted(seen) == [*range(1, 11)]


async def leave(*_: Any) -> None:
    raise SystemExit(3)


async def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


async def cancel(*_: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def divide(*_: Any) -> None:
    1 / 0  # noqa: B018


@pytest.mark.parametrize("callback", [leave, interrupt, cancel, divide])
def test_whatever_a_task_raises_the_next_message_is_handled(
    callback: Any, make: Make, errors: list[Exception]
) -> None:
    one = make(lambda *rest: callback() if rest[3] == b"bad" else None)
    bad, good = Delivered(1, b"bad"), Delivered(2)
    one.put(bad, good)
    assert bad.wait().settled == "dead-letter"
    assert good.wait().settled == "ack"
    eventually(lambda: len(errors) == 1)
    # And the loop goes on as well.
    assert event_loop().run(asyncio.sleep(0, "turns"), PATIENCE) == "turns"


def test_a_task_that_is_cancelled_before_it_begins_costs_its_message_only(make: Make) -> None:
    """By whoever cancels all that there is; its place is free again."""

    async def clear() -> None:
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()

    async def nothing() -> None:
        pass

    one = make(lambda *rest: clear() if rest[3] == b"bad" else nothing(), 2)
    for _ in range(3):  # more than there are places
        goes_on = threading.Event()
        event_loop().call(goes_on.wait)  # so that both begin together
        bad, innocent = Delivered(1, b"bad"), Delivered(2)
        one.put(bad, innocent)
        eventually(lambda: one.workers.busy == 2)
        goes_on.set()
        assert bad.wait().settled == "ack"
        assert innocent.wait().settled == "dead-letter"
    eventually(lambda: one.workers.busy == 0)


def test_what_is_cancelled_before_it_begins_keeps_nobody_waiting() -> None:
    """As ``on_start`` is where the service is stopped just then."""
    loop = event_loop()
    goes_on = threading.Event()
    loop.call(goes_on.wait)
    sleeping = asyncio.sleep(0)
    errand = loop.send(sleeping)
    errand.cancel()
    goes_on.set()
    with pytest.raises(TimeoutError, match="it was cancelled"):
        errand.wait(PATIENCE)
    assert inspect.getcoroutinestate(sleeping) == inspect.CORO_CLOSED, "Python warns otherwise"


def test_a_task_that_exits_is_shown_with_the_line_where_it_did(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = make(lambda *_: leave())
    bad = Delivered(1, b"bad")
    one.put(bad)
    assert bad.wait().settled == "dead-letter"
    assert "raise SystemExit(3)" in caplog.text


def test_what_a_handler_begins_by_itself_cannot_end_the_loop(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async def callback(*_: Any) -> None:
        asyncio.get_running_loop().call_soon(leave_now)

    def leave_now() -> None:
        raise SystemExit(3)

    one = make(callback)
    first, second = Delivered(1), Delivered(2)
    one.put(first)
    first.wait()
    eventually(lambda: "wanted to end the event loop" in caplog.text)
    one.put(second)
    assert second.wait().settled == "ack"


def test_a_task_may_ask_for_a_retry(make: Make) -> None:
    async def callback(*_: Any) -> None:
        raise RetryMessage(2)

    delivered = Delivered()
    make(callback).put(delivered)
    assert delivered.wait().settled == "requeue after 2 s"


def test_a_task_s_line_has_its_duration(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    async def callback(*_: Any) -> None:
        await asyncio.sleep(0.05)

    with caplog.at_level(logging.DEBUG, "mq_connector"):
        delivered = Delivered(message_id="m1")
        make(callback).put(delivered)
        delivered.wait()
        eventually(lambda: "'m1' of 'input': handled, " in caplog.text)
    [record] = [each for each in caplog.records if "handled" in each.getMessage()]
    assert record.about["duration"] >= 0.05  # type: ignore[attr-defined]


def test_the_pace_of_tasks_is_measured(make: Make) -> None:
    async def callback(*_: Any) -> None:
        await asyncio.sleep(0.05)

    one = make(callback, 4)
    assert one.workers.pace.wanted(0) == 8
    for first in range(1, 800, 8):  # until the machine has had time enough for eight of them
        deliveries = [Delivered(tag) for tag in range(first, first + 8)]
        one.put(*deliveries)
        for each in deliveries:
            each.wait()
        if one.workers.pace.wanted(0) > 8:
            break
    assert 8 < one.workers.pace.wanted(0) <= 16


def test_a_message_is_settled_when_what_its_task_has_published_is_confirmed(make: Make) -> None:
    delivered = Delivered()
    calls: list[Callable[[], object]] = []

    async def callback(*_: Any) -> None:
        confirms = delivered.delivery.confirms = Confirms(calls.append)
        confirms.expect()

    one = make(callback)
    one.put(delivered)
    eventually(lambda: calls)
    calls.pop()()
    assert delivered.outcome.settled == ""
    assert delivered.delivery.confirms is not None
    delivered.delivery.confirms.outcome(None)
    calls.pop()()
    assert delivered.wait().settled == "ack"


def test_without_ack_on_return_a_message_is_left_to_its_task(make: Make) -> None:
    done = threading.Event()

    async def callback(channel: Any, method: Any, *_: Any) -> None:
        done.set()

    delivered = Delivered()
    one = make(callback, ack_on_return=False)
    one.put(delivered)
    assert done.wait(PATIENCE)
    eventually(lambda: one.workers.tasks.places[0].delivery is None)
    assert delivered.outcome.settled == ""


def test_a_child_that_returns_from_a_task_settles_nothing_and_ends(make: Make) -> None:
    children: list[int] = []
    parent = os.getpid()

    async def callback(*_: Any) -> None:
        child = os.fork()
        if child:
            children.append(child)

    delivered = Delivered()
    one = make(callback)
    one.put(delivered)
    delivered.wait()
    assert os.getpid() == parent
    [child] = children
    try:
        ended = eventually(lambda: os.waitpid(child, os.WNOHANG)[0], PATIENCE)
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert ended == child


class Named:
    async def answer(self, _: Any) -> Any:
        return {}

    def stream(self, _: Any) -> Any:
        yield {}

    def to_answer(self, *_: Any) -> Any:
        return self.answer(None)

    def to_both(self, *_: Any) -> Any:
        return self.stream(None) if self.to_stream() else self.answer(None)

    def to_stream(self, *_: Any) -> Any:
        return self.stream(None)


def test_one_thread_is_enough_for_a_callback_that_only_begins_tasks() -> None:
    named = Named()
    assert is_async(named.answer) and is_async(named.to_answer) and is_async(divide)
    assert not is_async(named.to_stream) and not is_async(named.to_both)
    assert not is_async(print) and not is_async(lambda: 0)

    def threads(callback: Any) -> int:
        started: list[Any] = []
        workers = Workers(
            Limits(workers=5),
            "x",
            callback,
            channels.__getitem__,
            started.append,
            None,  # type: ignore[arg-type]
        )
        workers._start_one = lambda: started.append(None)  # type: ignore[method-assign]
        workers.start()
        return 1 + len(started)

    assert threads(named.to_answer) == 1
    assert threads(named.to_stream) == 5


def test_a_task_that_stops_the_loop_costs_nobody_else(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """All that is async in the process is on that loop."""

    async def callback(*rest: Any) -> None:
        if rest[3] == b"bad":
            asyncio.get_running_loop().stop()

    one = make(callback)
    for tag, body in enumerate((b"bad", b"bad", b""), 1):
        delivered = Delivered(tag, body)
        one.put(delivered)
        assert delivered.wait().settled == "ack"
    eventually(lambda: "called the event loop's stop(); it goes on" in caplog.text)


class NeverMade(RetryMessage):
    """As a class of a handler's own that leaves out what ours does as it is made."""

    def __init__(self) -> None:
        pass


class NeverMadeEither(RequestError):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("kind", [NeverMade, NeverMadeEither])
def test_an_error_that_lacks_what_ours_has_costs_its_message_only(
    kind: type[Exception], make: Make, errors: list[Exception]
) -> None:
    async def callback(*rest: Any) -> None:
        if rest[3] == b"bad":
            raise kind

    one = make(callback)
    bad, good = Delivered(1, b"bad"), Delivered(2)
    one.put(bad, good)
    assert bad.wait().settled == "dead-letter"
    assert good.wait().settled == "ack"
    [error] = errors
    assert isinstance(error, AttributeError) and isinstance(error.__cause__, kind)
