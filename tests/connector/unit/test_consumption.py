"""The course of a consumer's channel, with a broker that says what the test wants and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from mq_connector.config import Limits
from mq_connector.consumer.consumption import Consumption
from mq_connector.consumer.handling import Handling
from mq_connector.consumer.workers import Workers
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic
from waiting import eventually

from .fakes import FakeChannel, FakeLink

PATIENCE = 60.0
TAG = "ctag"


class Channel(FakeChannel):
    """pika's channel, with the callbacks that a consumer sets."""

    def __init__(self) -> None:
        super().__init__(5)
        self.on_cancel: Callable[[Any], None] = lambda _: None

    def add_on_cancel_callback(self, callback: Callable[[Any], None]) -> None:
        self.on_cancel = callback

    def add_on_return_callback(self, callback: Callable[..., None]) -> None:
        """Nothing is returned here."""

    def basic_qos(self, prefetch_count: int, callback: Any = None) -> None:
        self.calls.append(("basic_qos", (prefetch_count,)))
        if callback is not None:
            self._callbacks.append(callback)


class Owner:
    """Has the queue ready at once, and notes what it is told."""

    queue = "input"

    def __init__(self) -> None:
        self.heard: list[str] = []

    def ready_queue(self, opened: Any, done: Callable[..., None]) -> None:
        done(None, None)

    def on_change(self, consumption: Consumption) -> None:
        self.heard.append("consuming" if consumption.is_consuming else "not consuming")

    def complain(self, what: str) -> None:
        self.heard.append(f"complaint: {what}")

    def on_failed(self, consumption: Consumption, error: Exception) -> None:
        self.heard.append(f"failed: {error}")

    def on_ended(self, consumption: Consumption) -> None:
        self.heard.append("ended")


class Consuming:
    """A consumer of a broker of this version, with one worker; its callback hangs at the body b"late"."""

    def __init__(self, version: tuple[int, ...]) -> None:
        self.begun: list[bytes] = []
        self.hangs, self.release = threading.Event(), threading.Event()
        self.link = FakeLink(version)
        self.amqp = Channel()
        self.owner = Owner()
        link: Any = self.link
        amqp: Any = self.amqp
        handling = Handling(
            link, Limits(workers=1), "test", self._handle, lambda _: None, lambda: None, True
        )
        handling.suspicion.relax()
        self.workers, self.outbox = handling.workers, handling.outbox
        self.consumption = Consumption(self.owner, link, amqp, handling)
        self.amqp.answer(Basic.ConsumeOk(TAG))
        self._thread = threading.Thread(target=self.workers.work)
        self._thread.start()

    def _handle(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.begun.append(body)
        if body == b"late":
            self.hangs.set()
            self.release.wait(PATIENCE)

    def deliver(self, *bodies: bytes) -> None:
        for tag, body in enumerate(bodies, self.consumption.opened.last_tag + 1):
            method = Basic.Deliver(TAG, tag, False, "", "input")
            self.consumption.opened.deliver(method, pika.BasicProperties(), body)

    def cancel(self, tag: str = TAG) -> None:
        """The broker cancels a consumer."""
        self.amqp.on_cancel(pika.frame.Method(5, Basic.Cancel(tag)))

    def quicken(self) -> None:
        """The callback turns out to be so quick that more messages are worth having in hand."""
        self.workers.pace.average = 0.001
        self.consumption.adapt()

    def last_call(self) -> str:
        """What was asked of the broker last."""
        return self.amqp.calls[-1][0]

    def requeued(self) -> list[int]:
        """Tags of what has gone back to the queue."""
        methods = [
            getattr(each, "method", None) for burst in self.link.transport.bursts for each in burst
        ]
        return [each.delivery_tag for each in methods if isinstance(each, Basic.Nack)]

    def end(self) -> None:
        self.release.set()
        self.workers.stop()
        for each in [self._thread, *(worker.thread for worker in self.workers._workers)]:
            each.join(PATIENCE)
            assert not each.is_alive()


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that takes over from another has had its turn before anything else happens."""
    start_one = Workers._start_one

    def start(workers: Workers) -> None:
        start_one(workers)
        eventually(workers.inbox.empty)

    monkeypatch.setattr(Workers, "_start_one", start)


@pytest.fixture
def consuming() -> Iterator[Callable[..., Consuming]]:
    made: list[Consuming] = []

    def make(*version: int) -> Consuming:
        made.append(Consuming(version))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_what_waits_behind_a_late_message_goes_back_before_another_worker_can_begin_it(
    consuming: Callable[..., Consuming],
) -> None:
    """From 4.3 on: its time runs as well, and nobody here would be in time for it."""
    one = consuming(4, 3, 0)
    one.deliver(b"late", b"second", b"third")
    assert one.hangs.wait(PATIENCE)
    one.cancel()
    assert one.requeued() == [2, 3]
    assert one.begun == [b"late"]
    assert len(one.workers._workers) == 2, "another has taken over from the late one"
    assert one.last_call() == "basic_consume", "it consumes anew"


def test_a_late_message_before_4_3_costs_the_channel_and_what_waits_is_not_begun(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(3, 13, 0)
    one.deliver(b"late", b"second", b"third")
    assert one.hangs.wait(PATIENCE)
    one.consumption.opened.closing()  # as the reader does, before pika hears of it
    text = "PRECONDITION_FAILED - delivery acknowledgement on channel 5 timed out."
    one.amqp.lose(ChannelClosedByBroker(406, text))
    assert one.begun == [b"late"]
    assert one.requeued() == []
    assert len(one.workers._workers) == 2, "another has taken over from the late one"
    assert one.owner.heard[-2:] == ["not consuming", f"failed: 406 {text}"]


def test_a_cancel_of_another_consumer_is_none_of_ours(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(4, 3, 0)
    one.cancel("an older one")
    assert one.consumption.is_consuming
    assert one.owner.heard == ["consuming"]


# ---- a consumer is replaced by another, and what may come between


def test_more_are_taken_by_another_consumer_which_is_no_pause(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(3, 13, 0)
    one.deliver(b"1", b"2")
    eventually(lambda: one.consumption.opened.outstanding == 0)
    one.quicken()
    assert one.last_call() == "basic_consume", "the broker gives it no more, so it stays"
    one.link.run_timers()
    one.deliver(b"3", b"4")
    one.link.run_timers()
    assert one.last_call() == "basic_cancel"
    one.amqp.answer(Basic.CancelOk(TAG))
    assert one.last_call() == "basic_consume"
    assert ("basic_qos", (200,)) in one.amqp.calls
    assert one.consumption.is_consuming
    one.amqp.answer(Basic.ConsumeOk("another"))
    assert one.owner.heard == ["consuming"]


def test_what_is_in_hand_of_a_former_consumer_does_not_count_at_the_next_replacement(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(3, 13, 0)
    one.deliver(b"late", b"second")
    assert one.hangs.wait(PATIENCE)
    one.quicken()
    one.amqp.answer(Basic.CancelOk(TAG))
    one.workers.pace.average = 0.02  # 10 messages in 0.2 s
    one.amqp.answer(Basic.ConsumeOk("another"))
    for _ in range(8):
        one.deliver(b"of the other")
    assert one.link.timers, "it looks whether the broker gives it more"
    one.link.run_timers()
    assert one.last_call() == "basic_consume", "eight are no 200"
    replacement = one.consumption._replacement
    assert replacement is not None and replacement.taken == 8


def test_a_stop_calls_a_replacement_off_that_has_yet_to_begin(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(3, 13, 0)
    one.quicken()
    one.consumption.stop(time.monotonic() + PATIENCE)
    assert one.amqp.calls[-1] == ("basic_cancel", (TAG,))
    one.amqp.answer(Basic.CancelOk(TAG))
    assert one.owner.heard == ["consuming", "not consuming"]
    assert not one.amqp.closed, "what was sent last may come back"
    one.amqp.answer(Basic.QosOk())
    assert one.amqp.closed


@pytest.mark.parametrize("when", ["cancelling", "consuming"])
def test_a_stop_waits_for_a_replacement_that_is_under_way(
    consuming: Callable[..., Consuming], when: str
) -> None:
    one = consuming(3, 13, 0)
    one.quicken()
    one.deliver(b"1", b"2")
    one.link.run_timers()
    assert one.last_call() == "basic_cancel"
    eventually(lambda: one.consumption.opened.outstanding == 0)
    if when == "consuming":
        one.amqp.answer(Basic.CancelOk(TAG))
    calls = len(one.amqp.calls)
    one.consumption.stop(time.monotonic() + PATIENCE)
    assert len(one.amqp.calls) == calls
    if when == "consuming":
        one.amqp.answer(Basic.ConsumeOk("another"))
        assert one.amqp.calls[-1] == ("basic_cancel", ("another",))
        one.amqp.answer(Basic.CancelOk("another"))
    else:
        one.amqp.answer(Basic.CancelOk(TAG))
    assert one.owner.heard == ["consuming", "not consuming"]
    assert one.last_call() == "basic_qos"
    one.amqp.answer(Basic.QosOk())
    assert one.amqp.closed


def test_a_consumer_that_the_broker_cancels_before_it_is_replaced_is_made_anew(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(3, 13, 0)
    one.quicken()
    one.cancel()
    assert one.owner.heard == [
        "consuming",
        "complaint: the broker cancelled the consumer of 'input'; consuming again",
        "not consuming",
    ]
    assert one.last_call() == "basic_consume"
    one.amqp.answer(Basic.ConsumeOk("another"))
    assert one.consumption.is_consuming


# ---- the end


def test_past_the_deadline_the_channel_is_closed_though_something_is_in_hand(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(3, 13, 0)
    one.deliver(b"late", b"second")
    assert one.hangs.wait(PATIENCE)
    one.consumption.stop(time.monotonic() + 60)
    one.amqp.answer(Basic.CancelOk(TAG))
    assert one.requeued() == [2]
    assert not one.amqp.closed
    one.consumption.stop(time.monotonic() - 1)
    one.link.run_timers()
    assert one.amqp.closed
    assert one.consumption.unfinished == 1


def test_a_broker_that_does_not_let_us_consume_is_given_up_after_a_while(
    consuming: Callable[..., Consuming],
) -> None:
    one = consuming(3, 13, 0)
    one.cancel()
    one.link.run_timers()
    assert one.owner.heard[-1] == (
        "failed: 504 the broker doesn't let us consume 'input' within 10 s"
    )


def test_a_consumer_that_is_there_after_its_channel_was_given_up_is_none(
    consuming: Callable[..., Consuming],
) -> None:
    """pika sends its close only when the broker has answered what was asked before."""
    one = consuming(3, 13, 0)
    one.cancel()
    one.consumption.abandon()
    heard = len(one.owner.heard)
    one.amqp.answer(Basic.ConsumeOk("late"))
    assert one.outbox._opened is None, "it has no channel to publish on"
    assert len(one.owner.heard) == heard
