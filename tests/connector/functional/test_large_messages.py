"""Bytes in hand are bounded, not only messages: however many large ones wait, few are in the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mq_connector import ConsumerThread
from mq_connector.consumer.opened.bulk import MOST_BYTES
from waiting import eventually

from .broker import Broker
from .conftest import Consume
from .peer import Peer
from .served import pages

_LARGE = b"x" * int(3.9 * 2**20)
_MANY = 60
#: Bytes by which the process may grow: what may be in hand, two bodies on their way, and what the
#: allocator keeps. All that waits is more than three times as much.
_ROOM = MOST_BYTES + 32 * 2**20


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """How many bytes more than at the beginning the process has had, at the most."""
    began = most = pages()
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, pages())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: (most - began) * 4096
    finally:
        over.set()
        thread.join()


class Slow:
    """A callback that takes its time, and the numbers of the messages that it was given."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.numbers: list[int] = []
        self.redelivered: set[int] = set()
        #: The most often that one of them had come before, as the broker counts (quorum queues do).
        self.came_before = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.go.wait(60)
        number = int(properties.message_id)
        self.numbers.append(number)
        headers = properties.headers or {}
        self.came_before = max(self.came_before, headers.get("x-delivery-count", 0))
        if method.redelivered:
            self.redelivered.add(number)
        if len(body) > 1000:
            time.sleep(self.seconds)


def prefetch_of(consumer: ConsumerThread) -> int:
    """How many messages the broker sends ahead."""
    handling = consumer._supervision._handling
    return 0 if handling is None else handling.workers.prefetch


def fill(peer: Peer, queue: str, count: int, body: bytes, first: int = 0) -> None:
    for number in range(first, first + count):
        peer.publish(queue, body, message_id=str(number))


@pytest.mark.parametrize("prefetch", [None, 200])
@pytest.mark.parametrize("workers", [1, 4])
def test_of_many_large_messages_that_wait_few_are_in_hand(
    broker: Broker, peer: Peer, queue: str, consume: Consume, workers: int, prefetch: int | None
) -> None:
    peer.declare(queue)
    fill(peer, queue, _MANY, _LARGE)
    slow = Slow(0.02)
    with growth() as grown:
        consume(slow, workers=workers, prefetch=prefetch)
        eventually(lambda: len(slow.numbers) >= _MANY, 60, lambda: f"{len(slow.numbers)} came")
    assert grown() < _ROOM
    assert sorted(slow.numbers) == list(range(_MANY)), "each once"
    if workers == 1:
        assert slow.numbers == list(range(_MANY)), "in their order"


@pytest.mark.parametrize("queue_type", ["quorum", "legacy"])
def test_large_messages_that_come_while_many_small_ones_are_in_hand_go_back_at_first(
    broker: Broker, peer: Peer, queue: str, consume: Consume, queue_type: str
) -> None:
    """Two hundred messages may be in hand of those that were small so far."""
    slow = Slow(0.02)
    consumer = consume(slow, queue_type=queue_type, prefetch=200)
    fill(peer, queue, 1000, b"small")
    eventually(lambda: len(slow.numbers) == 1000, 60)
    eventually(lambda: prefetch_of(consumer) == 200)
    slow.go.clear()
    with growth() as grown:
        fill(peer, queue, _MANY, _LARGE, 1000)
        slow.go.set()
        eventually(lambda: len(slow.numbers) >= 1000 + _MANY, 60)
        time.sleep(0.2)
    assert grown() < _ROOM
    assert sorted(slow.numbers) == list(range(1000 + _MANY)), "each once"
    at_first = [each for each in slow.numbers if each not in slow.redelivered]
    assert at_first == sorted(at_first), "in their order, but for what comes again"
    assert 0 < len(slow.redelivered) < _MANY

    def as_many_again() -> bool:
        slow.go.clear()
        handled = len(slow.numbers)
        # More than can be in hand: it changes while all that may be is.
        fill(peer, queue, 250, b"small", 2000)
        slow.go.set()
        eventually(lambda: len(slow.numbers) == handled + 250)
        return prefetch_of(consumer) == 200

    eventually(as_many_again, what="200 in hand again")


def test_what_goes_back_for_want_of_room_waits_until_there_is_some(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    """However long the callback takes: each return counts towards the broker's delivery limit."""
    slow = Slow(0.0)
    consumer = consume(slow, queue_type="quorum", prefetch=200)
    fill(peer, queue, 1000, b"small")
    eventually(lambda: len(slow.numbers) == 1000, 60)
    eventually(lambda: prefetch_of(consumer) == 200)
    slow.go.clear()
    fill(peer, queue, _MANY, _LARGE, 1000)
    time.sleep(5)
    slow.go.set()
    eventually(lambda: len(slow.numbers) >= 1000 + _MANY, 60)
    assert sorted(slow.numbers) == list(range(1000 + _MANY)), "each once"
    assert slow.came_before <= 3


def test_a_message_larger_than_all_that_may_be_in_hand_is_handled(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    slow = Slow(0.0)
    consume(slow, workers=2, prefetch=50)
    fill(peer, queue, 6, b"x" * (MOST_BYTES + 1))
    eventually(lambda: len(slow.numbers) >= 6, 60)
    assert sorted(slow.numbers) == list(range(6))


def test_a_stop_gives_back_what_was_too_much(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    slow = Slow(0.0)
    consumer = consume(slow, prefetch=200)
    fill(peer, queue, 300, b"small")
    eventually(lambda: len(slow.numbers) == 300)
    slow.go.clear()
    fill(peer, queue, 40, _LARGE, 300)
    consumer.stop(10)
    slow.go.set()
    consumer.join(60)
    handled = len(slow.numbers) - 300
    assert peer.count(queue)[0] == 40 - handled
