"""A forked child shares its parent's sockets, and must keep off them: it connects for itself."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector import Client, Connection, ConsumerThread
from mq_connector.errors import NotConnected
from waiting import eventually

from .broker import Broker
from .conftest import Consume, echo
from .peer import Peer


def in_child(function: Callable[[], object]) -> str:
    """What a function raises, or else returns, in a forked child that ends right after it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "the child has died"
        try:
            os.close(reader)
            try:
                said = f"returned {function()!r}"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def told_off(said: str) -> bool:
    return said.startswith("NotConnected:") and "forked" in said


def test_a_child_may_not_use_its_parent_s_channel_and_the_parent_goes_on(
    peer: Peer, queue: str, consume: Consume
) -> None:
    channels: list[Any] = []

    def handle(channel: Any, *rest: Any) -> None:
        channels.append(channel)
        echo(channel, *rest)

    consumer = consume(handle)
    assert "echo" in peer.ask(queue)
    for _ in range(5):
        assert told_off(in_child(lambda: channels[0].basic_publish("", queue, b"from the child")))
        assert told_off(in_child(lambda: channels[0].queue_declare(f"{queue}.child").method))
        for settle in (channels[0].basic_ack, channels[0].basic_reject, channels[0].basic_nack):
            assert told_off(in_child(functools.partial(settle, 1)))
        assert "echo" in peer.ask(queue)
    assert all(each.is_open for each in channels), "the child has cost the parent its channel"
    assert not peer.has(f"{queue}.child")
    consumer.stop(1)
    consumer.join(60)
    peer.rests_at(queue, 0, consumers=0)


def test_a_child_that_returns_from_the_callback_settles_nothing_and_ends(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """As after `os.fork()` without an `os._exit`: the message is the parent's alone to settle."""
    channels: list[Any] = []
    ended: list[bool] = []

    def handle(channel: Any, *rest: Any) -> None:
        child = os.fork()
        if child == 0:
            return
        channels.append(channel)
        try:
            ended.append(bool(eventually(lambda: os.waitpid(child, os.WNOHANG)[0])))
        except AssertionError:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        echo(channel, *rest)

    consumer = consume(handle)
    for _ in range(3):
        assert "echo" in peer.ask(queue)
    assert ended == [True] * 3
    assert all(each.is_open for each in channels), "the child has cost the parent its channel"
    consumer.stop(1)
    consumer.join(60)
    peer.rests_at(queue, 0)


def test_a_child_cannot_stop_its_parent_s_consumer(
    peer: Peer, queue: str, consume: Consume
) -> None:
    consumer = consume(echo)
    in_child(lambda: consumer.stop(0))
    time.sleep(0.2)
    assert consumer.is_consuming
    assert "echo" in peer.ask(queue)


def test_a_child_may_not_use_its_parent_s_client(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    consume(echo)
    with Client(Connection([broker.parameters()])) as client:
        assert "echo" in client.request(queue, {"n": 1}, 5)
        assert told_off(in_child(lambda: client.request(queue, {"n": 2}, 5)))
        assert "echo" in client.request(queue, {"n": 3}, 5)


def test_a_child_may_connect_for_itself(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    consume(echo)
    assert "echo" in peer.ask(queue)

    def ask() -> object:
        with Client(Connection([broker.parameters()])) as client:
            return client.request(queue, {"text": "from the child"}, 5)["echo"]

    assert in_child(ask) == "returned {'text': 'from the child'}"
    assert "echo" in peer.ask(queue)


def test_a_handler_may_fork_and_its_child_costs_the_service_nothing(
    peer: Peer, queue: str, consume: Consume
) -> None:
    said: list[str] = []

    def handle(channel: Any, *rest: Any) -> None:
        said.append(in_child(lambda: channel.basic_publish("", queue, b"x")))
        echo(channel, *rest)

    consumer = consume(handle)
    for _ in range(5):
        assert "echo" in peer.ask(queue)
    assert len(said) == 5 and all(map(told_off, said))
    assert consumer.is_consuming


def test_a_consumer_that_was_made_before_the_fork_starts_in_the_child(
    broker: Broker, peer: Peer, queue: str
) -> None:
    """As under a server that forks its workers after the application was imported."""
    peer.declare(queue)
    seen: list[bytes] = []
    consumer = ConsumerThread(broker.parameters(), queue, lambda *rest: seen.append(rest[3]))

    def serve() -> object:
        consumer.start()
        eventually(lambda: seen)
        consumer.stop(1)
        consumer.join(60)
        return seen

    peer.publish(queue, b"for the child")
    assert in_child(serve) == "returned [b'for the child']"
    with pytest.raises(RuntimeError):
        consumer.join()  # it was never started here
    peer.rests_at(queue, 0, consumers=0)


def test_the_error_says_what_to_do(broker: Broker, queue: str, consume: Consume) -> None:
    consumer = consume(echo)
    said = in_child(lambda: consumer.connection.call(lambda: None))
    assert said.startswith(NotConnected.__name__) and "connect after forking" in said
