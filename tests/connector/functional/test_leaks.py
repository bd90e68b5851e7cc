"""However often it starts, stops or connects again: no thread, file or connection stays behind."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
from mq_connector import ConsumerThread
from mq_connector.config import Limits
from mq_connector.connection import attempts, scratch
from mq_connector.connection import link as link_module
from mq_connector.connection.wire import frames
from mq_connector.consumer import consumption, handling
from waiting import eventually

from .broker import Broker
from .conftest import Consume, Record, echo
from .peer import Peer
from .served import resources

# They count the threads and files of the process, and what the collector knows of.
pytestmark = pytest.mark.alone


def objects() -> int:
    """Objects that the garbage collector knows of."""
    gc.collect()
    return len(gc.get_objects())


def settled(before: tuple[int, int]) -> bool:
    threads, files = resources()
    return threads <= before[0] and files <= before[1]


def cycle(broker: Broker, queue: str) -> None:
    consumer = ConsumerThread(broker.parameters(), queue, echo, limits=Limits(workers=2))
    consumer.start()
    eventually(lambda: consumer.is_consuming)
    consumer.stop(5)
    consumer.join(60)
    assert not consumer.is_alive()


def test_fifty_starts_and_stops_leave_nothing_behind(
    broker: Broker, peer: Peer, queue: str
) -> None:
    peer.declare(queue)
    for _ in range(3):
        cycle(broker, queue)
    before = resources()
    for _ in range(50):
        cycle(broker, queue)
    eventually(lambda: settled(before), what=f"no more than {before} threads and files")
    peer.rests_at(queue, 0, consumers=0)


def test_stops_in_the_middle_of_connecting_leave_nothing_behind(broker: Broker, queue: str) -> None:
    def attempt(pause: float, port: int) -> None:
        consumer = ConsumerThread(broker.parameters(port=port), queue, echo, limits=Limits())
        consumer.start()
        time.sleep(pause)
        consumer.stop(0)
        consumer.join(60)

    attempt(0.05, broker.port)
    before = resources()
    for number in range(40):
        attempt(number / 1000, broker.port if number % 4 else 1)
    eventually(lambda: settled(before), what=f"no more than {before} threads and files")


@pytest.mark.parametrize(
    "times", [200, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(400)])]
)
def test_reconnects_leave_nothing_behind(
    peer: Peer,
    queue: str,
    consume: Consume,
    record: Record,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")  # what it keeps of each line would count
    monkeypatch.setattr(attempts, "_FIRST_PAUSE", 0.002)  # only to be done sooner
    # Timers that remember their channels.
    monkeypatch.setattr(consumption, "PATIENCE", 1.0)
    monkeypatch.setattr(handling, "_CAREFUL_WITHIN", 1.0)
    monkeypatch.setattr(scratch, "PATIENCE", 1.0)
    monkeypatch.setattr(link_module, "PATIENCE", 1.0)
    consumer = consume(echo)

    def reconnect() -> None:
        link = consumer.connection.link
        consumer.connection.call(consumer.connection.drop)
        eventually(
            lambda: consumer.is_consuming and consumer.connection.link is not link, every=0.001
        )

    for _ in range(20):
        reconnect()
    time.sleep(1.2)
    before, known = resources(), objects()
    began = time.monotonic()
    for _ in range(times):
        reconnect()
    took = time.monotonic() - began
    eventually(lambda: settled(before), what=f"no more than {before} threads and files")
    # pika keeps some 1000 cancelled timers; one leaked connection has dozens of objects.
    eventually(lambda: objects() < known + 3000, what=f"about {known} objects", every=0.2)
    assert "echo" in peer.ask(queue)
    record(f"{times} connections dropped", bound=2.0, recovery=round(took / times, 4))


def test_channels_that_the_broker_closes_leave_none_behind(peer: Peer, consume: Consume) -> None:
    """On a connection that stays; it has 2047 of them at the most."""
    consumer = consume(echo)
    link = consumer.connection.link
    assert link is not None
    open_now: dict[int, Any] = vars(link.amqp)["_channels"]

    def lose() -> None:
        channel = consumer.channel
        assert channel is not None
        opened: Any = channel._opened
        # An unknown delivery tag, which the broker answers by closing the channel (406).
        opened._transport.send([frames.ack(opened.number, 2**32, False)])
        eventually(lambda: channel.is_closed and consumer.is_consuming, every=0.001)

    lose()
    before = len(open_now)
    for _ in range(10):
        lose()
    assert consumer.connection.link is link
    eventually(lambda: len(open_now) <= before, what=lambda: str(len(open_now)))
