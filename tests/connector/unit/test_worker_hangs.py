"""Workers that hang: who takes over, and what the health check is told."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from mq_connector.config import Limits
from mq_connector.consumer.workers.suspicion import _mark
from waiting import eventually

from .working import PATIENCE, Delivered, Make, errors, make, nothing_left

__all__ = ["errors", "make", "nothing_left"]


class Hanging:
    """A callback that hangs until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        #: Counts the calls that have begun.
        self.begun = threading.Semaphore(0)

    def callback(self, *_: Any) -> None:
        self.begun.release()
        self.release.wait(PATIENCE)


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
    hanging = Hanging()
    one = make(hanging.callback)
    for number in range(4):
        late = Delivered(number, b"%d" % number)
        one.put(late)
        assert hanging.begun.acquire(timeout=PATIENCE)
        opened: Any = late.opened
        one.workers.replace_late(opened)
    time.sleep(0.05)
    assert len(one.threads()) == 4
    hanging.release.set()


def test_only_the_message_that_is_late_is_struck_and_its_thread_replaced(make: Make) -> None:
    """The broker closes the channel of all; another worker was just busy."""
    hanging = Hanging()
    one = make(hanging.callback, count=2)
    one.suspicion.relax()
    late, innocent = Delivered(1, b"late"), Delivered(2, b"innocent")
    innocent.delivery.opened = late.delivery.opened
    one.put(late)
    assert hanging.begun.acquire(timeout=PATIENCE)
    time.sleep(0.3)
    one.put(innocent)
    assert hanging.begun.acquire(timeout=PATIENCE)
    one.workers.replace_late(late.delivery.opened)
    assert list(one.suspicion._hangs) == [_mark(late.delivery)]
    assert len(one.threads()) == 3
    hanging.release.set()


def test_a_thread_that_came_back_may_be_replaced_again(make: Make) -> None:
    """Late is not for ever: only those that hang at the same time are counted."""
    hanging = Hanging()
    one = make(hanging.callback)
    for number in range(6):
        late = Delivered(number, b"%d" % number)
        one.put(late)
        assert hanging.begun.acquire(timeout=PATIENCE)
        opened: Any = late.opened
        one.workers.replace_late(opened)
        one.put(Delivered(100 + number))
        assert hanging.begun.acquire(timeout=60), f"nobody takes over for the {number + 1}th time"
        hanging.release.set()
        eventually(lambda: len(one.threads()) == 1, PATIENCE)
        hanging.release.clear()


def test_it_says_so_when_every_worker_hangs_and_none_can_be_replaced(make: Make) -> None:
    hanging = Hanging()
    one = make(hanging.callback)
    for number in range(4):
        assert one.workers.why_unhealthy == ""
        late = Delivered(number, b"%d" % number)
        one.put(late)
        assert hanging.begun.acquire(timeout=PATIENCE)
        opened: Any = late.opened
        one.workers.replace_late(opened)
    eventually(lambda: one.workers.why_unhealthy, PATIENCE)
    assert "longer than the broker waits" in one.workers.why_unhealthy
    hanging.release.set()
    eventually(lambda: not one.workers.why_unhealthy, PATIENCE)


def test_it_says_so_when_every_worker_is_stuck_or_dead(make: Make) -> None:
    hanging = Hanging()
    one = make(hanging.callback, limits=Limits(workers=2, stuck=1))
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
    hanging.release.set()
    second.wait()
    eventually(lambda: one.workers.why_unhealthy == "")
    one.workers.stop()
    eventually(lambda: one.workers.why_unhealthy == "no worker is alive")


def test_a_worker_that_hangs_in_what_is_no_messages_callback_is_stuck_too(make: Make) -> None:
    """An `error_func` that never returns, say: there is nobody left for the messages."""
    hanging = Hanging()
    one = make(hanging.callback, limits=Limits(workers=1, stuck=1))
    one.workers.inbox.put(hanging.callback)
    assert hanging.begun.acquire(timeout=PATIENCE)
    assert one.workers.why_unhealthy == ""
    eventually(lambda: "for more than 1 s" in one.workers.why_unhealthy)
    hanging.release.set()
    eventually(lambda: one.workers.why_unhealthy == "")
    assert one.workers.busy_for == 0.0


def test_what_has_to_wait_for_async_callbacks_may_be_stuck_too(make: Make) -> None:
    hanging = Hanging()
    one = make(hanging.callback, limits=Limits(workers=1, stuck=1))
    one.workers.tasks.aside.call(hanging.callback)
    assert hanging.begun.acquire(timeout=PATIENCE)
    eventually(lambda: "beside async callbacks has taken more" in one.workers.why_unhealthy)
    hanging.release.set()
    eventually(lambda: one.workers.why_unhealthy == "")
    one.workers.tasks.aside.close()


def test_a_worker_survives_what_is_raised_beside_its_messages(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def ends() -> None:
        raise SystemExit

    one = make(lambda *_: None)
    one.workers.inbox.put(ends)
    after = Delivered(1)
    one.put(after)
    assert after.wait().settled == "ack"
    assert "failed beside its callback" in caplog.text


def test_it_tells_for_how_long_nobody_has_been_free(make: Make) -> None:
    hanging = Hanging()
    one = make(hanging.callback, limits=Limits(workers=2))
    assert one.workers.busy_for == 0.0
    first, second = Delivered(1), Delivered(2)
    one.put(first)
    eventually(lambda: one.workers.busy == 1)
    assert one.workers.busy_for == 0.0, "one of them is free"
    one.put(second)
    eventually(lambda: one.workers.busy_for > 0.2)
    hanging.release.set()
    second.wait()
    eventually(lambda: one.workers.busy_for == 0.0)
