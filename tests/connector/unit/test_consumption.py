"""The course of a consumer's channel, with a broker that says what the test wants and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from mq_connector.config import Limits
from mq_connector.consumer.consumption import Consumption
from mq_connector.consumer.outbox import Outbox
from mq_connector.consumer.suspicion import Suspicion
from mq_connector.consumer.workers import Workers
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic
from waiting import eventually

from .fakes import FakeChannel, FakeLink

PATIENCE = 10.0
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


class Owner:
    """Has the queue ready at once, and notes what it is told."""

    queue = "input"

    def __init__(self) -> None:
        self.heard: list[str] = []

    def ready_queue(self, opened: Any, done: Callable[..., None]) -> None:
        done(None, None)

    def on_change(self, consumption: Consumption) -> None:
        self.heard.append("consuming" if consumption.is_consuming else "not consuming")

    def on_suspicion(self, consumption: Consumption) -> None:
        self.heard.append("suspicion")

    def complain(self, what: str) -> None:
        self.heard.append(what)

    def on_failed(self, consumption: Consumption, error: Exception) -> None:
        self.heard.append(f"failed: {error}")

    def on_ended(self, consumption: Consumption) -> None:
        self.heard.append("ended")


class Eager(Workers):
    """A thread that takes over from another has had its turn before anything else happens."""

    def _start_one(self) -> None:
        super()._start_one()
        eventually(self.inbox.empty)


class Consuming:
    """A consumer of a broker of this version, with one worker; its callback hangs at the body b"late"."""

    def __init__(self, version: tuple[int, ...]) -> None:
        self.begun: list[bytes] = []
        self.hangs, self.release = threading.Event(), threading.Event()
        self.link = FakeLink(version)
        self.amqp = Channel()
        self.owner = Owner()
        suspicion = Suspicion()
        suspicion.relax()
        link: Any = self.link
        amqp: Any = self.amqp
        self.workers = Eager(
            Limits(workers=1),
            "test",
            self._handle,
            lambda _: None,  # type: ignore[arg-type, return-value]  # the callback has no use for it
            lambda _: None,
            suspicion,
        )
        self.consumption = Consumption(
            self.owner, link, amqp, self.workers, Outbox(link), Limits(), suspicion
        )
        self.amqp.answer(Basic.ConsumeOk(TAG))
        self._thread = threading.Thread(target=self.workers.work)
        self._thread.start()

    def _handle(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.begun.append(body)
        if body == b"late":
            self.hangs.set()
            self.release.wait(PATIENCE)

    def deliver(self, *bodies: bytes) -> None:
        for tag, body in enumerate(bodies, 1):
            method = Basic.Deliver(TAG, tag, False, "", "input")
            self.consumption.opened.deliver(method, pika.BasicProperties(), body)

    def cancel(self, tag: str = TAG) -> None:
        """The broker cancels a consumer."""
        self.amqp.on_cancel(pika.frame.Method(5, Basic.Cancel(tag)))

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
    assert one.amqp.calls[-1][0] == "basic_consume", "it consumes anew"


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
