"""What happens to brokers, under load: nothing is lost, and the consumer comes back by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pytest
from mq_connector import MQConnector
from mq_connector.connection.address import KEEPALIVE
from waiting import eventually

from .broker import PASSWORD, USER, VHOST, Broker
from .conftest import Consume, Record, echo
from .peer import Peer
from .proxy import Proxy
from .served import BOUND, FAULT, NOTICED, Served, blink, lasting, notice

pytestmark = pytest.mark.timeout(300)


def test_kill_9_of_the_broker(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    outage = lasting(victim.kill, 0.5, victim.start)

    def cause() -> tuple[float, float]:
        # The broker itself loses a quorum queue that was made within the second before it is killed.
        time.sleep(1.5)
        return outage()

    notice("broker: kill -9, start", served(), record, cause)


def test_a_restart_of_the_broker(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    notice("broker: stop, start", served(), record, lasting(victim.stop, 0.5, victim.start))


def test_a_frozen_broker(victim: Broker, served: Callable[..., Served], record: Record) -> None:
    frozen = lasting(victim.freeze, 2.5, victim.thaw)
    notice("broker: SIGSTOP for 2.5 s", served(), record, frozen)


@pytest.mark.soak
def test_a_broker_frozen_for_longer_than_its_connections_live(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    # pika adds 5 s to the heartbeat before it gives a peer up.
    frozen = lasting(victim.freeze, 7.5, victim.thaw)
    notice("broker: SIGSTOP for 7.5 s, heartbeat 1 s", served(heartbeat=1), record, frozen)


def test_connections_closed_by_force(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    blink(
        "connections: closed by force (320)",
        served(),
        record,
        lambda: victim.ctl("close_all_connections", "--vhost", VHOST, "the test says so"),
    )


def test_a_memory_alarm(victim: Broker, served: Callable[..., Served], record: Record) -> None:
    """The broker stops reading from those who publish, and so takes no acks either.

    Replies fill all buffers on the way, for longer than any time-out of the kernel's should be.
    """
    one = served(heartbeat=2, tcp_options=KEEPALIVE, reply=256 * 1024)
    with one.watched():
        victim.ctl("set_vm_memory_high_watermark", "0.0001")
        time.sleep(12)
        victim.ctl("set_vm_memory_high_watermark", "0.9")
        over = time.monotonic()
        done = len(one.load.processed)
        eventually(lambda: len(one.load.processed) > done + 20, BOUND)
        recovery = time.monotonic() - over
        healthy = one.yes_again(over)
        assert [state for _, state in one.consuming.changes] == [True], "the connection was lost"
    record(
        "memory alarm for 12 s, heartbeat 2 s",
        bound=BOUND,
        recovery=round(recovery, 3),
        health_true=round(healthy, 3),
        **one.load.check(),
    )
    assert healthy <= NOTICED


def test_a_consumer_cancelled_by_the_broker(
    victim: Broker, served: Callable[..., Served], record: Record, queue: str
) -> None:
    """The leader of the quorum queue dies: the broker keeps the messages, but not the consumer."""
    find = f'rabbit_misc:r(<<"{VHOST}">>, queue, <<"{queue}">>)'
    kill = f"{{ok, Q}} = rabbit_amqqueue:lookup({find}), exit(whereis(element(1, amqqueue:get_pid(Q))), kill)."
    one = served()
    with one.watched():
        victim.ctl("eval", kill)
        done, over = len(one.load.processed), time.monotonic()
        eventually(lambda: len(one.load.processed) > done + 20)
        recovery = time.monotonic() - over
        healthy = one.yes_again(over)
    record(
        "quorum queue: its leader killed",
        bound=10.0,
        recovery=round(recovery, 3),
        health_true=round(healthy, 3),
        **one.load.check(),
    )


@pytest.mark.parametrize("queue_type", ["quorum", "legacy"])
def test_a_cancel_though_the_queue_is_there_ends_one_consumer_and_begins_one(
    broker: Broker, peer: Peer, queue: str, consume: Consume, queue_type: str
) -> None:
    """As 4.3 does it: a cancel for each late message, and the consumer stays until we end it.

    What is in hand stays there, and is settled.
    """
    release = threading.Event()
    seen: list[tuple[bytes, bool]] = []

    def handle(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        seen.append((body, method.redelivered))
        release.wait(60)

    with Proxy(broker.port) as proxy:
        consumer = consume(handle, at=broker.parameters(port=proxy.port), queue_type=queue_type)
        for number in range(10):
            peer.publish(queue, b"%d" % number)
        # A quorum queue counts a consumer that was cancelled until its messages are settled.
        eventually(lambda: seen and peer.count(queue)[0] == 0)
        changes: list[bool] = []
        consumer.on_change = lambda: changes.append(consumer.is_consuming)

        def rests() -> str | None:
            """Its tag; it has none while it is replaced by one with another prefetch."""
            consumption = consumer._supervision._consumption
            assert consumption is not None
            return None if consumption._replacement else consumption._consumer_tag

        tag = eventually(rests, what="the consumer is no longer being replaced")
        cancel = pika.frame.Method(1, pika.spec.Basic.Cancel(consumer_tag=tag, nowait=True))
        for _ in range(3):
            proxy.inject(cancel.marshal())
        eventually(lambda: changes == [False, True], BOUND)
        peer.publish(queue, b"10")
        release.set()
        eventually(lambda: len(seen) == 11)
        peer.rests_at(queue, 0, consumers=1)
        consumer.stop(5)
        consumer.join(60)
        assert consumer.unfinished == 0
        peer.rests_at(queue, 0, consumers=0)
    assert seen == [(b"%d" % number, False) for number in range(11)]


def test_a_deleted_queue_is_made_and_consumed_again(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    """What is in a queue goes with it; so it is deleted when all that is confirmed is handled."""
    one = served()
    peer = Peer(victim.parameters())
    assert peer.has(one.queue)

    def cause() -> None:
        with one.load.held_up():
            peer.channel.queue_delete(one.queue)
            eventually(lambda: peer.has(one.queue), BOUND, "the queue is there again")

    blink("queue deleted under the consumer, 5 times", one, record, cause, times=5)
    peer.close()


def patience(broker: Broker, timeout: int, every: int) -> None:
    """Set for how long a broker waits for an acknowledgement, and how often it looks; milliseconds."""
    broker.ctl(
        "eval",
        f"application:set_env(rabbit, consumer_timeout, {timeout}),"
        f"application:set_env(rabbit, channel_tick_interval, {every}).",
    )


def test_a_consumer_timeout(victim: Broker, served: Callable[..., Served], record: Record) -> None:
    """The broker closes the channel (406) of who hasn't acknowledged for too long."""
    patience(victim, 1000, 500)
    release = threading.Event()

    def late(_channel: Any, method: Any, *_: Any) -> None:
        if not method.redelivered:
            release.wait(60)

    try:
        one = served(fault=late)
        with one.watched():
            began = time.monotonic()
            one.cause()
            gone = began + one.consuming.first(False, began, 10.0)
            recovery = one.consuming.first(True, gone, BOUND)
            healthy = one.yes_again(gone + recovery)
            release.set()
            eventually(lambda: True in one.calls, what=f"{FAULT!r} comes again")
        record(
            "consumer timeout",
            bound=BOUND,
            recovery=round(recovery, 3),
            health_true=round(healthy, 3),
            **one.load.check(),
        )
    finally:
        release.set()
        patience(victim, 1_800_000, 60_000)


def test_a_broker_that_is_down_at_the_start_is_waited_for(
    victim: Broker, queue: str, consume: Consume, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    victim.stop()
    try:
        consumer = consume(echo, at=victim.parameters(), within=0)
        time.sleep(1.5)
        assert not consumer.is_consuming
        assert consumer.is_alive() and consumer.failure is None
        said = [text for text in caplog.messages if "trying again" in text]
        assert 2 <= len(said) <= 8, said
    finally:
        victim.start()
    over = time.monotonic()
    eventually(lambda: consumer.is_consuming, BOUND)
    recovery = time.monotonic() - over
    record("broker: down at the start", bound=BOUND, recovery=round(recovery, 3))


def test_the_next_host_is_tried_where_the_first_is_dead(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    dead = broker.parameters(port=1)
    began = time.monotonic()
    consumer = consume(echo, at=[dead, broker.parameters()])
    assert time.monotonic() - began < 30
    assert "echo" in peer.ask(queue)
    consumer.connection.call(consumer.connection.drop)
    eventually(lambda: not consumer.is_consuming)
    eventually(lambda: consumer.is_consuming, BOUND)
    assert "echo" in peer.ask(queue)


def test_hosts_of_the_configuration_are_tried_in_turn(
    broker: Broker, peer: Peer, queue: str, consume: Consume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MQ_SERVER", raising=False)
    user = {"username": USER, "password": PASSWORD}
    servers = f"127.0.0.1:1, 127.0.0.1:2,127.0.0.1:{broker.port}"
    service = MQConnector({"server": servers, "users": {"mine": user}}, service_name="mine")
    service.vhost = VHOST
    consume(echo, at=service.create_mq_connection())
    assert "echo" in peer.ask(queue)


def test_a_quorum_queue_that_somebody_makes_again_at_once(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    """RabbitMQ 3.10 doesn't cancel the consumer then, and what it sends to it is lost on its way, until its channel is
    closed. More must wait than it has sent: nothing else shows."""
    one = served(pause=0.01)
    peer = Peer(victim.parameters())
    assert peer.has(one.queue)
    with one.watched():
        with one.load.held_up():
            peer.channel.queue_delete(one.queue)
            peer.declare(one.queue, durable=True, arguments={"x-queue-type": "quorum"})
        began, done = time.monotonic(), len(one.load.processed)
        eventually(lambda: len(one.load.processed) > done + 20)
        recovery = time.monotonic() - began
        healthy = one.yes_again(began)
    record(
        "quorum queue deleted and made again at once, 3.10",
        bound=30.0,
        recovery=round(recovery, 3),
        health_true=round(healthy, 3),
        **one.load.check(),
    )
    peer.close()
