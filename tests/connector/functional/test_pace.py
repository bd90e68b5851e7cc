"""As much in hand as is handled in a short time, so that replicas share the work and a burst stays a burst."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from mq_connector import ConsumerThread
from mq_connector.config import Limits
from waiting import eventually

from .broker import Broker
from .peer import Peer


def start(broker: Broker, queue: str, callback: Any, workers: int = 1) -> ConsumerThread:
    consumer = ConsumerThread(broker.parameters(), queue, callback, limits=Limits(workers=workers))
    consumer.start()
    eventually(lambda: consumer.is_consuming)
    return consumer


def end(*consumers: ConsumerThread) -> None:
    for consumer in consumers:
        consumer.stop(5)
    for consumer in consumers:
        consumer.join(60)


def in_hand(consumer: ConsumerThread) -> int:
    consumption = consumer._supervision._consumption
    return 0 if consumption is None else consumption.opened.outstanding


@pytest.mark.parametrize(
    ("seconds", "workers", "most"), [(0.1, 1, 4), (0.1, 4, 16), (0.01, 1, 40), (0.01, 4, 160)]
)
def test_a_slow_callback_has_few_messages_in_hand(
    broker: Broker, peer: Peer, queue: str, seconds: float, workers: int, most: int
) -> None:
    """At most what it handles in 0.2 s, or two for each worker; twice that, as the pace is an average."""
    peer.declare(queue)
    for _ in range(400):
        peer.publish(queue, b"x")
    consumer = start(broker, queue, lambda *_: time.sleep(seconds), workers)
    seen = []
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        seen.append(in_hand(consumer))
        time.sleep(0.01)
    end(consumer)
    assert workers <= max(seen) <= most


def test_a_quick_callback_has_200_in_hand(broker: Broker, peer: Peer, queue: str) -> None:
    """On a busy machine a quick one may look slow, so it may be held up several times until it is quick."""
    peer.declare(queue)
    held, release = threading.Event(), threading.Event()
    count = sent = 0

    def handle(*_: Any) -> None:
        nonlocal count
        count += 1
        if count % 1000 == 400:
            held.set()
            release.wait(60)
            release.clear()

    def has_200() -> bool:
        nonlocal sent
        for _ in range(1000):
            peer.publish(queue, b"x")
        sent += 1000
        assert held.wait(60)
        held.clear()
        until = time.monotonic() + 2
        while not (found := peer.count(queue)[0] == sent - count - 200 + 1):
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        release.set()
        return found

    consumer = start(broker, queue, handle)
    eventually(has_200, what="200 in hand")
    end(consumer)


@pytest.mark.alone
def test_replicas_share_the_work(broker: Broker, peer: Peer, queue: str) -> None:
    peer.declare(queue)
    shares = [0, 0, 0, 0]

    def handler(number: int) -> Any:
        def handle(*_: Any) -> None:
            time.sleep(0.01)
            shares[number] += 1

        return handle

    consumers = [start(broker, queue, handler(number)) for number in range(4)]
    for _ in range(1200):
        peer.publish(queue, b"x")
    eventually(lambda: sum(shares) == 1200)
    end(*consumers)
    assert max(shares) - min(shares) <= 30, shares  # a tenth of each one's


def test_the_loop_is_woken_for_another_number_in_hand_only_where_that_is_better(
    broker: Broker, peer: Peer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wake-up costs as much as a message, and the callback's time is looked at every few of them."""
    peer.declare(queue)
    pause, handled = [0.0], [0]

    def handle(*_: Any) -> None:
        time.sleep(pause[0])
        handled[0] += 1

    def publish(count: int) -> None:
        wanted = handled[0] + count
        for _ in range(count):
            peer.publish(queue, b"x")
        eventually(lambda: handled[0] == wanted)

    consumer = start(broker, queue, handle)
    supervision: Any = consumer._supervision
    publish(1000)
    time.sleep(0.2)
    looked: list[int] = []
    adapt = supervision._adapt

    def look() -> None:
        looked.append(1)
        adapt()

    monkeypatch.setattr(supervision, "_adapt", look)
    publish(900)
    assert len(looked) < 900 / 9 / 2
    pause[0] = 0.05
    publish(30)
    assert looked, "it has become slow"
    end(consumer)
