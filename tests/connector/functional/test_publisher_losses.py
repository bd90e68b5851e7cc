"""A publisher that loses its broker, is refused, closed or forked: each future tells the truth all the same."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future

import pika
import pytest
from mq_connector import Connection, Publisher
from mq_connector.errors import NotConnected, StartError
from waiting import eventually

from .broker import Broker
from .conftest import Record
from .peer import Peer
from .proxy import Proxy
from .test_publisher import Make, make

__all__ = ["make"]

pytestmark = pytest.mark.timeout(300)


def numbers_in(peer: Peer, queue: str) -> list[int]:
    """What is in a queue, which this empties."""
    found = []
    while (got := peer.channel.basic_get(queue, auto_ack=True))[0]:
        found.append(int(got[2]))
    return found


@pytest.mark.slow
def test_whose_future_succeeded_is_in_the_queue_through_kill_9_and_restart(
    victim: Broker, queue: str, make: Make, record: Record
) -> None:
    peer = Peer(victim.parameters())
    peer.declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    publisher = make(victim.parameters(), window=300)
    futures: list[Future[None]] = []
    over = threading.Event()
    persistent = pika.BasicProperties(delivery_mode=2)

    def publish() -> None:
        while not over.wait(0.001):
            body = b"%d" % len(futures)
            futures.append(publisher.publish("", queue, body, persistent, timeout=60))

    def confirmed() -> int:
        return sum(future.done() for future in list(futures))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        time.sleep(1.5)  # a quorum queue that is younger doesn't survive, whoever publishes
        for end in (victim.kill, victim.stop):
            eventually(lambda: confirmed() > 100)
            end()
            known = confirmed()
            time.sleep(0.3)
            victim.start()
            restarted = time.monotonic()
            eventually(lambda: confirmed() > known + 50, 20)  # noqa: B023
            recovery = time.monotonic() - restarted
    finally:
        over.set()
        thread.join(60)
    publisher.close(30)
    succeeded = {number for number, future in enumerate(futures) if future.exception(1) is None}
    peer.reset()
    arrived = numbers_in(peer, queue)
    found = set(arrived)
    peer.close()
    record(
        "publisher: broker killed, then restarted",
        bound=2.0,
        recovery=round(recovery, 3),
        sent=len(futures),
        confirmed=len(succeeded),
        processed=len(found),
        duplicated=len(arrived) - len(found),
        lost=len(succeeded - found),
    )
    assert succeeded == set(range(len(futures))), "nothing failed: all were held meanwhile"
    assert succeeded <= found
    assert recovery < 2.0


def test_a_publisher_that_holds_delivers_what_came_while_there_was_no_broker(
    victim: Broker, queue: str, make: Make
) -> None:
    peer = Peer(victim.parameters())
    peer.declare(queue, durable=True)
    peer.reset()
    victim.stop()
    try:
        publisher = make(victim.parameters(), window=50)
        held = [publisher.publish("", queue, b"%d" % number) for number in range(50)]
        with pytest.raises(NotConnected, match=r"50 messages wait .*no connection to"):
            publisher.publish("", queue, b"more", timeout=0.2)
        assert not any(future.done() for future in held)
    finally:
        victim.start()
    assert [future.result(60) for future in held] == [None] * 50
    assert [int(peer.take(queue)[1]) for _ in held] == list(range(50))
    peer.close()


def test_a_publisher_that_does_not_hold_refuses_from_the_moment_of_the_loss(
    broker: Broker, peer: Peer, queue: str, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    peer.declare(queue, durable=True)
    with Proxy(broker.port) as proxy:
        publisher = make(broker.parameters(port=proxy.port), hold=False)
        assert publisher.publish("", queue, b"first").result(60) is None
        proxy.cut_down_after = 1
        proxy.end(reset=True)
        eventually(lambda: "connecting again" in caplog.text)
        time.sleep(0.002)
        for _ in range(100):
            with pytest.raises(NotConnected):
                publisher.publish("", queue, b"x", timeout=0)
            time.sleep(0.002)
        proxy.cut_down_after = None
        eventually(lambda: publisher.connection.is_open)
    peer.rests_at(queue, 1)


def test_closing_waits_for_the_confirms(peer: Peer, queue: str, make: Make) -> None:
    peer.declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    publisher = make()
    futures = [publisher.publish("", queue, b"x" * 1000) for _ in range(500)]
    publisher.close()
    assert [future.exception(0) for future in futures] == [None] * 500
    peer.rests_at(queue, 500)
    with pytest.raises(NotConnected, match="closed"):
        publisher.publish("", queue, b"late")
    publisher.close()


def test_closing_without_a_broker_fails_what_is_held(broker: Broker, queue: str) -> None:
    publisher = Publisher(Connection([broker.parameters(port=1)]))
    future = publisher.publish("", queue, b"x")
    began = time.monotonic()
    publisher.close(0.5)
    assert time.monotonic() - began < 15
    with pytest.raises(NotConnected, match="closed before"):
        future.result(0)


def test_a_publisher_that_is_refused_says_so_at_once(
    broker: Broker, queue: str, make: Make
) -> None:
    publisher = make(broker.parameters(password="wrong"))
    # Whether it waits for the refusal or comes behind it.
    with pytest.raises(StartError, match="refuses user 'tester'"):
        publisher.publish("", queue, b"x").result(60)
    with pytest.raises(StartError, match="refuses user 'tester'"):
        publisher.publish("", queue, b"x")


def test_a_forked_child_is_told_to_connect_for_itself(peer: Peer, queue: str, make: Make) -> None:
    peer.declare(queue, durable=True)
    publisher = make()
    assert publisher.publish("", queue, b"parent").result(60) is None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                publisher.publish("", queue, b"child")
                said = "published"
            except NotConnected as error:
                said = str(error)
            publisher.close()
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    os.waitpid(child, 0)
    assert "forked" in said
    # What the child did, closing included, is nothing to the parent's connection.
    assert publisher.publish("", queue, b"parent again").result(60) is None
    peer.rests_at(queue, 2)
