"""What happens to brokers, under load: nothing is lost, and the consumer comes back by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from mq_connector import ConsumerThread, MQConnector, health
from mq_connector.config import KEEPALIVE, Limits
from mq_connector.health import HealthServer

from .broker import PASSWORD, USER, VHOST, Broker
from .conftest import Consume, Record, echo
from .load import Load, Watch
from .peer import Peer, eventually
from .proxy import Proxy

#: Seconds from the end of a fault until messages are consumed again.
BOUND = 2.0
#: Seconds within which the health check must notice the beginning and the end of a fault.
NOTICED = 2.0

pytestmark = pytest.mark.timeout(120)


class Served:
    """A consumer of a queue that outlives its broker, under load, watched by the health check."""

    def __init__(self, broker: Broker, queue: str, reply: int = 0, **options: Any) -> None:
        self.load = Load(broker, queue, reply=reply)
        limits = Limits(workers=4, prefetch=50, queue_type="quorum")
        where = broker.parameters(**options)
        self.consumer = ConsumerThread(where, queue, self.load.handle, limits=limits)
        self.service = MQConnector(config={}, service_name="functional")
        self.service.consumers = {queue: self.consumer}
        self.consuming = Watch(lambda: self.consumer.is_consuming)
        self.health = Watch(lambda: health.check("functional")[0], every=0.05)


@pytest.fixture
def served(
    victim: Broker, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Served]]:
    """Start such a consumer; it must end in good order, too."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    running: list[Served] = []
    servers: list[HealthServer] = []

    def start(**options: Any) -> Served:
        served = Served(victim, queue, **options)
        running.append(served)
        servers.append(HealthServer("functional", served.service.look))
        served.service.run()
        eventually(lambda: served.consumer.is_consuming)
        return served

    yield start
    for server in servers:
        server.close()
    for served in running:
        served.service.stop(3)
        assert not served.consumer.is_alive()


def notice(
    name: str, one: Served, record: Record, cause: Callable[[], tuple[float, float]]
) -> None:
    """Let an outage happen under load, long enough for the health check to see it.

    :param cause: returns the times (`time.monotonic`) when the fault began and when it was over
    """
    with one.load:
        with one.consuming, one.health:
            time.sleep(0.3)
            began, over = cause()
            unhealthy = one.health.first(False, began, over - began + NOTICED)
            healthy = one.health.first(True, over, BOUND + NOTICED)
            recovery = one.consuming.changes[-1][0] - over
        time.sleep(0.3)
    record(
        name,
        bound=BOUND,
        recovery=round(max(recovery, 0.0), 3),
        health_false=round(unhealthy, 3),
        health_true=round(healthy, 3),
        **one.load.check(),
    )
    assert unhealthy <= NOTICED
    assert healthy <= NOTICED
    assert recovery <= BOUND


def blink(name: str, one: Served, record: Record, cause: Callable[[], Any]) -> None:
    """Let something happen under load that the consumer recovers from at once."""
    with one.load, one.consuming, one.health:
        time.sleep(0.3)
        began = time.monotonic()
        cause()
        gone = one.consuming.first(False, began, 5.0)
        recovery = one.consuming.first(True, began + gone, BOUND)
        time.sleep(0.3)
        assert one.health.changes[-1][1], "the health check hasn't noticed that all is well again"
    record(name, bound=BOUND, recovery=round(recovery, 3), **one.load.check())


def test_kill_9_of_the_broker(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    def cause() -> tuple[float, float]:
        # The broker itself loses a quorum queue that was made within the second before it is killed.
        time.sleep(1.5)
        began = time.monotonic()
        victim.kill()
        time.sleep(0.5)
        victim.start()
        return began, time.monotonic()

    notice("broker: kill -9, start", served(), record, cause)


def test_a_restart_of_the_broker(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    def cause() -> tuple[float, float]:
        began = time.monotonic()
        victim.stop()
        time.sleep(0.5)
        victim.start()
        return began, time.monotonic()

    notice("broker: stop, start", served(), record, cause)


def test_a_frozen_broker(victim: Broker, served: Callable[..., Served], record: Record) -> None:
    def cause() -> tuple[float, float]:
        began = time.monotonic()
        victim.freeze()
        time.sleep(2.5)
        victim.thaw()
        return began, time.monotonic()

    notice("broker: SIGSTOP for 2.5 s", served(), record, cause)


@pytest.mark.soak
def test_a_broker_frozen_for_longer_than_its_connections_live(
    victim: Broker, served: Callable[..., Served], record: Record
) -> None:
    def cause() -> tuple[float, float]:
        began = time.monotonic()
        victim.freeze()
        time.sleep(7.5)  # pika adds 5 s to the heartbeat before it gives a peer up
        victim.thaw()
        return began, time.monotonic()

    notice("broker: SIGSTOP for 7.5 s, heartbeat 1 s", served(heartbeat=1), record, cause)


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
    with one.load, one.consuming:
        time.sleep(0.3)
        victim.ctl("set_vm_memory_high_watermark", "0.0001")
        time.sleep(12)
        victim.ctl("set_vm_memory_high_watermark", "0.9")
        over = time.monotonic()
        done = len(one.load.processed)
        eventually(lambda: len(one.load.processed) > done + 20, BOUND)
        recovery = time.monotonic() - over
        assert [state for _, state in one.consuming.changes] == [True], "the connection was lost"
    record(
        "memory alarm for 12 s, heartbeat 2 s",
        bound=BOUND,
        recovery=round(recovery, 3),
        **one.load.check(),
    )


def test_a_consumer_cancelled_by_the_broker(
    victim: Broker, served: Callable[..., Served], record: Record, queue: str
) -> None:
    """The leader of the quorum queue dies: the broker keeps the messages, but not the consumer."""
    find = f'rabbit_misc:r(<<"{VHOST}">>, queue, <<"{queue}">>)'
    kill = f"{{ok, Q}} = rabbit_amqqueue:lookup({find}), exit(whereis(element(1, amqqueue:get_pid(Q))), kill)."
    one = served()
    with one.load:
        time.sleep(0.3)
        victim.ctl("eval", kill)
        done, over = len(one.load.processed), time.monotonic()
        eventually(lambda: len(one.load.processed) > done + 20, 10)
        recovery = time.monotonic() - over
    record(
        "quorum queue: its leader killed",
        bound=10.0,
        recovery=round(recovery, 3),
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
        release.wait(20)

    with Proxy(broker.port) as proxy:
        consumer = consume(handle, at=broker.parameters(port=proxy.port), queue_type=queue_type)
        for number in range(10):
            peer.publish(queue, b"%d" % number)
        eventually(lambda: seen and peer.count(queue) == (0, 1))
        changes: list[bool] = []
        consumer.on_change = lambda: changes.append(consumer.is_consuming)
        tag = consumer._consumer_tag
        assert tag is not None
        cancel = pika.frame.Method(1, pika.spec.Basic.Cancel(consumer_tag=tag, nowait=True))
        for _ in range(3):
            proxy.inject(cancel.marshal())
        eventually(lambda: changes == [False, True], BOUND)
        peer.publish(queue, b"10")
        release.set()
        eventually(lambda: len(seen) == 11)
        peer.rests_at(queue, 0, consumers=1)
        consumer.stop(5)
        consumer.join(10)
        assert consumer.unfinished == 0
        peer.rests_at(queue, 0, consumers=0)
    assert seen == [(b"%d" % number, False) for number in range(11)]


def test_a_deleted_queue_is_made_and_consumed_again(
    victim: Broker, queue: str, consume: Consume, record: Record
) -> None:
    peer = Peer(victim.parameters())
    consumer = consume(echo, at=victim.parameters())
    assert "echo" in peer.ask(queue)
    with Watch(lambda: consumer.is_consuming, every=0.001) as consuming:
        for _ in range(5):
            began = time.monotonic()
            peer.channel.queue_delete(queue)
            gone = consuming.first(False, began, 1.0)
            recovery = consuming.first(True, began + gone, BOUND)
            assert "echo" in peer.ask(queue, within=BOUND)
    record("queue deleted under the consumer", bound=BOUND, recovery=round(recovery, 3))
    peer.close()


def test_a_consumer_timeout(victim: Broker, queue: str, consume: Consume, record: Record) -> None:
    """The broker closes the channel (406) of who hasn't acknowledged for too long."""
    victim.ctl(
        "eval",
        "application:set_env(rabbit, consumer_timeout, 1000),"
        "application:set_env(rabbit, channel_tick_interval, 500).",
    )
    peer = Peer(victim.parameters())
    release = threading.Event()
    seen: list[tuple[bytes, bool]] = []

    def handle(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        seen.append((body, method.redelivered))
        if body == b"slow" and not method.redelivered:
            release.wait(20)

    try:
        consumer = consume(handle, at=victim.parameters())
        with Watch(lambda: consumer.is_consuming, every=0.001) as consuming:
            began = time.monotonic()
            peer.publish(queue, b"slow")
            gone = consuming.first(False, began, 10.0)
            recovery = consuming.first(True, began + gone, BOUND)
        release.set()
        peer.publish(queue, b"next")
        eventually(lambda: (b"next", False) in seen)
        assert (b"slow", True) in seen
        record("consumer timeout", bound=BOUND, recovery=round(recovery, 3))
    finally:
        release.set()
        peer.close()
        victim.ctl(
            "eval",
            "application:set_env(rabbit, consumer_timeout, 1800000),"
            "application:set_env(rabbit, channel_tick_interval, 60000).",
        )


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
    assert time.monotonic() - began < 1.0
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
