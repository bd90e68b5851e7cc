"""Exchanges that a consumer hears, on a real broker."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from mq_connector import ConsumerThread
from mq_connector.connection import Connection
from mq_connector.topology import Subscription
from pika.exceptions import ChannelClosedByBroker
from waiting import eventually

from .broker import LIMITED, Broker
from .conftest import Consume
from .peer import Peer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def exchange(peer: Peer) -> Iterator[str]:
    """A name for an exchange, which is deleted afterwards."""
    name = f"events.{uuid.uuid4().hex[:12]}"
    yield name
    peer.channel.exchange_delete(name)


class Heard:
    """A callback that keeps the bodies."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.bodies.append(body)

    def has(self, *bodies: bytes) -> bool:
        return sorted(self.bodies) == sorted(bodies)


def test_every_subscriber_without_a_queue_hears_everything(
    consume: Consume, exchange: str, peer: Peer
) -> None:
    one, other = Heard(), Heard()
    for heard in (one, other):
        consume(heard, queue="", exchange=exchange)
    peer.channel.exchange_declare(exchange, "fanout")  # as Neon's programs do, before each message
    for body in (b"1", b"2"):
        peer.channel.basic_publish(exchange, "any", body)
    eventually(lambda: one.has(b"1", b"2") and other.has(b"1", b"2"), 30)


def test_those_with_one_queue_share_what_it_hears(
    consume: Consume, exchange: str, queue: str, peer: Peer
) -> None:
    one, other = Heard(), Heard()
    for heard in (one, other):
        consume(heard, exchange=exchange)
    bodies = [b"%d" % number for number in range(20)]
    for body in bodies:
        peer.channel.basic_publish(exchange, "", body)
    peer.channel.basic_publish("", queue, b"sent to the queue itself")
    expected = sorted([*bodies, b"sent to the queue itself"])
    eventually(lambda: sorted(one.bodies + other.bodies) == expected, 30)


def test_a_topic_is_heard_by_its_routing_keys(consume: Consume, exchange: str, peer: Peer) -> None:
    heard, all_of_it = Heard(), Heard()
    consume(heard, exchange=exchange, routing_keys=["weather.*", "#.storm"])
    consume(all_of_it, queue="", exchange=exchange, exchange_type="topic")
    for key in ("weather.rain", "weather.rain.heavy", "sea.north.storm", "news"):
        peer.channel.basic_publish(exchange, key, key.encode())
    eventually(lambda: len(all_of_it.bodies) == 4, 30)
    eventually(lambda: heard.has(b"weather.rain", b"sea.north.storm"), 30)


def test_the_harness_knows_as_the_broker_does_what_a_topic_takes(exchange: str, peer: Peer) -> None:
    patterns = ("#", "a.*", "a.#", "a.#.c", "*", "", "*.#", "#.#", "a..b")
    keys = ("", "a", "a.b", "a.b.c", "a.b.b.c", "c", "a.", ".", "a..b", "#", "a.*")
    peer.channel.exchange_declare(exchange, "topic")
    for pattern in patterns:
        queue = peer.declare("", exclusive=True)
        peer.channel.queue_bind(queue, exchange, pattern)
        for key in keys:
            peer.channel.basic_publish(exchange, key, key.encode())
        expected = [
            key
            for key in keys
            if Subscription(exchange, "topic", (pattern,)).takes("q", exchange, key)
        ]
        taken = [peer.take(queue, 30)[1].decode() for _ in expected]
        assert (taken, peer.count(queue)[0]) == (expected, 0), pattern


def test_a_lost_channel_and_a_deleted_exchange_are_recovered_from(
    consume: Consume, exchange: str, peer: Peer
) -> None:
    heard = Heard()
    consumer = consume(heard, queue="", exchange=exchange)
    peer.channel.exchange_delete(exchange)
    peer.channel.queue_delete(consumer.queue)  # which cancels the consumer

    def told() -> bool:
        try:
            peer.channel.exchange_declare(exchange, "fanout", passive=True)
            peer.channel.basic_publish(exchange, "", b"again")
        except ChannelClosedByBroker:
            return False
        return b"again" in heard.bodies

    eventually(told, 60, every=0.1)


def test_an_exchange_of_another_kind_is_used_as_it_is(
    consume: Consume, exchange: str, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    peer.channel.exchange_declare(exchange, "topic")
    heard = Heard()
    consume(heard, exchange=exchange, queue="")
    assert any("is used as it is" in each.getMessage() for each in caplog.records)


def test_an_exchange_that_the_user_may_not_have_is_a_failed_start(
    broker: Broker, queue: str
) -> None:
    """The limited user has no rights on an exchange that isn't there: neither to make nor to hear it."""
    connection = Connection([broker.parameters(user=LIMITED)])
    consumer = ConsumerThread(connection, queue, Heard(), exchange="nobodys")
    consumer.start()
    consumer.join(30)
    assert consumer.failure is not None
    assert "nobodys" in str(consumer.failure)


def test_consumers_on_one_connection_have_workers_of_their_own(
    broker: Broker, consume: Consume, peer: Peer
) -> None:
    """The callbacks of one wait for each other, which takes two workers; those of the other must not meet."""
    connection = Connection([broker.parameters()])
    names = [f"input.{uuid.uuid4().hex[:12]}" for _ in range(2)]
    both = threading.Barrier(2, timeout=30)
    alone = threading.Lock()
    passed: list[bytes] = []

    def meet(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        both.wait()
        passed.append(body)

    def hold(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        assert alone.acquire(blocking=False)
        time.sleep(0.01)
        alone.release()
        passed.append(body)

    consume(meet, connection, queue=names[0], workers=2)
    consume(hold, connection, queue=names[1], workers=1)
    for name, bodies in zip(names, ((b"a", b"b"), (b"c", b"d", b"e")), strict=True):
        for body in bodies:
            peer.channel.basic_publish("", name, body)
    eventually(lambda: sorted(passed) == [b"a", b"b", b"c", b"d", b"e"], 60)
