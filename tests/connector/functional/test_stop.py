"""Stopping: what is in hand is finished, what isn't begun goes back, and nothing hangs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pytest
from mq_connector import Connection, ConsumerThread, RetryMessage
from mq_connector.config import Limits
from mq_connector.connection.address import Address
from mq_connector.consumer import Channel
from mq_connector.consumer.workers import Workers
from waiting import eventually

from .broker import Broker
from .conftest import Consume, echo
from .peer import Peer


class Held:
    """A callback that holds its message until it is let go, and then does what it is for.

    :param then: called with what the callback gets
    """

    def __init__(self, then: Callable[..., object] = lambda *_: None) -> None:
        self.bodies: list[bytes] = []
        self._then = then
        self._begun, self._release = threading.Event(), threading.Event()

    def __call__(self, *given: Any) -> None:
        self.bodies.append(given[3])
        self._begun.set()
        self._release.wait(600)
        self._then(*given)

    def has_begun(self) -> bool:
        """Whether it holds a message, within a minute."""
        return self._begun.wait(60)

    def let_go(self) -> None:
        """Go on."""
        self._release.set()


def ended(consumer: ConsumerThread, within: float = 60.0) -> None:
    """Assert that the thread ends, long before what it mustn't wait for."""
    consumer.join(within)
    assert not consumer.is_alive(), f"still alive after {within} s"
    assert not consumer.is_consuming


def test_a_message_in_hand_is_finished_and_acknowledged(
    peer: Peer, queue: str, consume: Consume
) -> None:
    held = Held(echo)
    consumer = consume(held)
    replies = peer.request(queue, text="last")
    assert held.has_begun()
    consumer.stop(600)
    time.sleep(0.2)
    assert consumer.is_alive(), "the stop didn't wait for the handler"
    held.let_go()
    assert peer.reply(replies)["echo"] == {"text": "last"}
    ended(consumer)
    assert consumer.unfinished == 0
    peer.rests_at(queue, 0, consumers=0)


def test_what_no_worker_has_begun_goes_back_at_once(
    peer: Peer, queue: str, consume: Consume
) -> None:
    held = Held()
    consumer = consume(held)
    for number in range(20):
        peer.publish(queue, b"%d" % number)
    assert held.has_begun()
    consumer.stop(600)
    # One that is just replaced by another is away for a moment, too.
    peer.rests_at(queue, 19, consumers=0)
    held.let_go()
    ended(consumer)
    assert held.bodies == [b"0"]
    # In the order in which they came, for whoever consumes next.
    assert [peer.take(queue)[1] for _ in range(19)] == [b"%d" % n for n in range(1, 20)]


def test_past_the_deadline_the_message_is_left_for_redelivery(
    peer: Peer, queue: str, consume: Consume
) -> None:
    held = Held()
    consumer = consume(held)
    peer.publish(queue, b"x")
    assert held.has_begun()
    began = time.monotonic()
    consumer.stop(0.5)
    ended(consumer)
    assert 0.4 < time.monotonic() - began < 60
    assert consumer.unfinished == 1
    peer.rests_at(queue, 1, consumers=0)
    seen: list[bool] = []
    consume(lambda _c, method, *_: seen.append(method.redelivered))
    eventually(lambda: seen == [True])
    held.let_go()


def test_a_second_stop_cuts_the_first_one_short(peer: Peer, queue: str, consume: Consume) -> None:
    held = Held()
    consumer = consume(held)
    peer.publish(queue, b"x")
    assert held.has_begun()
    consumer.stop(600)
    time.sleep(0.1)
    consumer.stop(0)
    ended(consumer)
    peer.rests_at(queue, 1)
    held.let_go()


def test_a_stop_before_the_start_lets_nothing_start(broker: Broker, peer: Peer, queue: str) -> None:
    consumer = ConsumerThread(broker.parameters(), queue, echo, limits=Limits())
    consumer.stop()
    consumer.start()
    ended(consumer)
    assert not peer.has(queue)


def test_a_stop_right_after_the_start_ends_it(broker: Broker, queue: str) -> None:
    """Wherever it is by then: looking up the host, logging in, declaring, or consuming."""
    for pause in (0, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08):
        consumer = ConsumerThread(broker.parameters(), queue, echo, limits=Limits())
        consumer.start()
        time.sleep(pause)
        consumer.stop(600)
        ended(consumer)


def test_two_stops_are_one(consume: Consume) -> None:
    consumer = consume(echo)
    consumer.stop(600)
    consumer.stop(600)
    ended(consumer)
    consumer.stop(600)


def test_a_second_start_is_refused_as_for_any_thread(consume: Consume) -> None:
    consumer = consume(echo)
    with pytest.raises(RuntimeError):
        consumer.start()
    assert consumer.is_consuming


def test_a_stop_from_a_callback_settles_that_message(
    peer: Peer, queue: str, consume: Consume
) -> None:
    def handle(channel: Channel, *rest: Any) -> None:
        consumer.stop(600)
        consumer.stop(600)
        echo(channel, *rest)

    consumer = consume(handle)
    assert "echo" in peer.ask(queue)
    ended(consumer)
    peer.rests_at(queue, 0, consumers=0)


def test_a_stop_from_the_error_handler(peer: Peer, queue: str, consume: Consume) -> None:
    dead_letters = peer.declare_dead(queue)

    def fail(*_: Any) -> None:
        raise ValueError("enough")

    consumer = consume(fail, error_func=lambda thread, _: thread.stop(5))
    peer.publish(queue, b"x")
    ended(consumer)
    eventually(lambda: peer.count(dead_letters)[0] == 1)


def test_stops_from_many_threads(consume: Consume) -> None:
    consumer = consume(echo)
    threads = [threading.Thread(target=consumer.stop, args=(5,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended(consumer)


def test_a_stop_while_nobody_listens(broker: Broker, consume: Consume) -> None:
    consumer = consume(echo, at=broker.parameters(port=1), within=0)
    time.sleep(0.3)
    consumer.stop(600)
    ended(consumer)


def test_a_stop_while_the_broker_says_nothing(broker: Broker, consume: Consume) -> None:
    """It listens and takes the connection, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        consumer = consume(echo, at=broker.parameters(port=mute.getsockname()[1]), within=0)
        time.sleep(0.3)
        consumer.stop(600)
        ended(consumer)


@pytest.mark.parametrize("kind", ["sleeping", "computing"])
def test_a_handler_longer_than_three_heartbeats_keeps_its_connection(
    broker: Broker, peer: Peer, queue: str, consume: Consume, kind: str
) -> None:
    """With a heartbeat of 1 s, the broker closes a connection that is silent for 2 s."""
    seen: list[bool] = []

    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        seen.append(method.redelivered)
        until = time.monotonic() + 3.5
        while time.monotonic() < until:
            if kind == "sleeping":
                time.sleep(1)
            else:
                sum(range(10_000))
        echo(channel, method, properties, body)

    consumer = consume(handle, at=broker.parameters(heartbeat=1))
    assert "echo" in peer.ask(queue, within=60)
    assert seen == [False]
    assert consumer.is_consuming
    peer.rests_at(queue, 0, consumers=1)


def test_a_retry_asked_for_during_the_stop_goes_back_at_once(
    peer: Peer, queue: str, consume: Consume
) -> None:
    def retry(*_: Any) -> None:
        raise RetryMessage(600)

    held = Held(retry)
    consumer = consume(held)
    peer.publish(queue, b"x")
    assert held.has_begun()
    consumer.stop(600)
    time.sleep(0.2)
    held.let_go()
    ended(consumer)
    assert consumer.unfinished == 0
    peer.rests_at(queue, 1, consumers=0)


def test_a_channel_that_the_broker_closes_during_the_stop_ends_it(consume: Consume) -> None:
    """A last publish to an exchange that isn't there: the stop's own cancel is never answered."""
    consumer = consume(echo)

    def both() -> None:
        channel = consumer.channel
        assert channel is not None
        channel.basic_publish("no such exchange", "", b"x")
        consumer.stop(600)

    consumer.connection.call(both)
    ended(consumer)


def test_a_stop_right_after_a_cancel_still_finishes_what_is_in_hand(
    peer: Peer, queue: str, consume: Consume
) -> None:
    held = Held(echo)
    consumer = consume(held)
    replies = peer.request(queue, text="in hand")
    assert held.has_begun()
    consumption = consumer._supervision._consumption
    assert consumption is not None
    # With the first message it may be replacing its consumer by one with another prefetch.
    tag = eventually(lambda: consumption._replacement is None and consumption._consumer_tag)
    cancel = pika.frame.Method(1, pika.spec.Basic.Cancel(consumer_tag=tag))

    def both() -> None:
        consumption._on_cancelled(cancel)
        consumer.stop(600)

    consumer.connection.call(both)
    time.sleep(0.3)
    assert consumer.is_alive(), "the stop didn't wait for the handler"
    held.let_go()
    assert peer.reply(replies)["echo"] == {"text": "in hand"}
    ended(consumer)
    assert consumer.unfinished == 0
    peer.rests_at(queue, 0, consumers=0)


def test_more_workers_than_the_machine_can_start_end_the_start(
    broker: Broker, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_workers: Workers) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Workers, "start", refuse)
    consumer = ConsumerThread(broker.parameters(), queue, echo, limits=Limits(workers=999))
    changed: list[bool] = []
    consumer.on_change = lambda: changed.append(True)
    consumer.start()
    ended(consumer)
    assert "999 worker threads can't be started" in str(consumer.failure)
    assert "MQ_WORKERS" in str(consumer.failure)
    assert changed, "nobody is told, and the service idles"


def test_a_configuration_that_breaks_in_an_unforeseen_way_ends_the_start(queue: str) -> None:
    def broken() -> list[pika.ConnectionParameters]:
        raise RuntimeError("nobody has thought of this")

    consumer = ConsumerThread(Connection(Address(broken)), queue, echo)
    consumer.start()
    ended(consumer)
    assert "nobody has thought of this" in str(consumer.failure)
