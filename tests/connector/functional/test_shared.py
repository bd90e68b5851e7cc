"""Many consumers on one connection: one socket, one I/O thread, and nobody pays for a neighbour's fault."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import pytest
from mq_connector.connection import Connection
from waiting import eventually

from .broker import LIMITED, VHOST, Broker
from .conftest import Consume, Record, echo
from .load import Load, Watch
from .peer import Peer
from .proxy import Proxy
from .served import BOUND, FAULT, resources

pytestmark = pytest.mark.timeout(300)

#: Consumers that share a connection where one of them comes to harm.
_CROWD = 4
#: Seconds for which a neighbour may handle nothing: what a busy machine takes for itself, and less than
#: any recovery that begins with another connection under this load would leave unnoticed.
_HICCUP = 1.0


class Neighbour:
    """One of several consumers on a connection, under a steady load of its own.

    :param fault: handles the messages `FAULT`, which don't count for the ledger
    """

    def __init__(
        self,
        broker: Broker,
        consume: Consume,
        connection: Connection,
        fault: Callable[..., object] = lambda *_: None,
    ) -> None:
        self.queue = f"input.{uuid.uuid4().hex[:12]}"
        self.load = Load(broker, self.queue, pause=0.01, work=0.005)
        #: When each message was handled (`time.monotonic`).
        self.times: list[float] = []
        self._fault = fault
        self.consumer = consume(
            self._handle, connection, 1, 20, "quorum", queue=self.queue, within=0
        )
        self.consuming = Watch(lambda: self.consumer.is_consuming, every=0.002)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Under load and under watch."""
        with self.load, self.consuming:
            yield

    def lose_channel(self) -> None:
        """Say something on its channel that the broker closes it for (406)."""
        consumption = self.consumer._supervision._consumption
        assert consumption is not None
        amqp = consumption._amqp
        self.consumer.connection.call(lambda: amqp.basic_ack(999_999))

    def gap(self, since: float) -> float:
        """The longest time in seconds without a message handled."""
        times = [since, *(each for each in self.times if each > since)]
        return max(later - earlier for earlier, later in pairwise(times))

    def _handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if body == FAULT:
            self._fault(channel, method, properties, body)
            return
        self.times.append(time.monotonic())
        self.load.handle(channel, method, properties, body)


Crowd = Callable[..., list[Neighbour]]


@pytest.fixture
def crowd(victim: Broker, consume: Consume) -> Crowd:
    """Several consumers on one connection; the first is the one that comes to harm."""

    def start(where: Any = None, fault: Callable[..., object] = lambda *_: None) -> list[Neighbour]:
        connection = Connection([where or victim.parameters()])
        neighbours = [Neighbour(victim, consume, connection, fault) for _ in range(_CROWD)]
        for each in neighbours:
            eventually(lambda: each.consumer.is_consuming, 10)  # noqa: B023
        return neighbours

    return start


def harm(
    name: str,
    neighbours: list[Neighbour],
    record: Record,
    cause: Callable[[Neighbour], float],
    bound: float = BOUND,
    is_seen: bool = False,
) -> None:
    """Let something happen to one consumer; those beside it must not notice.

    :param cause: returns when the fault was over (`time.monotonic`)
    :param is_seen: it has seen itself that the consumer came to harm, which may be well again between two looks
    """
    one, *others = neighbours
    link = one.consumer.connection.link
    with ExitStack() as stack:
        for each in neighbours:
            stack.enter_context(each.watched())
        time.sleep(0.5)
        before, began = resources(), time.monotonic()
        over = cause(one)
        if not is_seen:
            one.consuming.first(False, began, 10.0)
        eventually(lambda: one.consumer.is_consuming, bound)
        recovery = max(0.0, one.consuming.changes[-1][0] - over)
        time.sleep(0.5)
        gap = max(each.gap(began) for each in others)
        assert all(now <= then for now, then in zip(resources(), before, strict=True))
    one.load.check()
    books = [each.load.check() for each in others]
    record(
        name,
        bound=bound,
        recovery=round(recovery, 3),
        **{key: sum(book[key] for book in books) for key in books[0]},
    )
    assert sum(book["duplicated"] for book in books) == 0, "a neighbour's message came again"
    for each in others:
        assert [state for _, state in each.consuming.changes] == [True], "a neighbour stopped"
    assert gap < _HICCUP, f"a neighbour handled nothing for {gap:.2f} s"
    assert one.consumer.connection.link is link, "the connection was lost"
    assert recovery <= bound


def connections_of(broker: Broker, name: str) -> int:
    """Connections that the broker has from a client of this name."""
    listed: str = broker.ctl("list_connections", "client_properties")
    return sum(name in line for line in listed.splitlines())


def io_threads() -> int:
    return sum(thread.name == "mq-io" for thread in threading.enumerate())


def test_64_queues_take_one_connection_and_one_io_thread(
    broker: Broker, peer: Peer, consume: Consume, record: Record
) -> None:
    name = f"crowd-{uuid.uuid4().hex}"
    where = broker.parameters(client_properties={"connection_name": name})
    queues = [f"input.{uuid.uuid4().hex[:12]}" for _ in range(64)]
    eventually(lambda: not io_threads(), what="those of earlier tests have ended")
    io_before, threads_before = io_threads(), threading.active_count()
    connection = Connection([where])
    began = time.monotonic()
    consumers = [
        consume(echo, connection, queue_type="legacy", queue=queue, within=0) for queue in queues
    ]
    eventually(lambda: all(each.is_consuming for each in consumers))
    taken = time.monotonic() - began
    assert connections_of(broker, name) == 1
    assert io_threads() - io_before == 1
    assert threading.active_count() - threads_before == 64 + 1, "a thread for each, and the loop"
    for queue in queues:
        assert peer.ask(queue, text=queue)["echo"] == {"text": queue}
    record("start: 64 consumers on one connection", bound=5.0, recovery=round(taken, 3))
    assert taken <= 5.0
    for each in consumers[1:]:
        each.stop(5)
    for each in consumers[1:]:
        each.join(60)
    assert peer.ask(queues[0], text="alone")["echo"] == {"text": "alone"}
    consumers[0].stop(5)
    consumers[0].join(60)
    eventually(lambda: io_threads() == io_before, what="the last one closes the connection")
    eventually(lambda: connections_of(broker, name) == 0)
    for queue in queues:
        peer.channel.queue_delete(queue)


def test_a_channel_that_the_broker_closes_is_one_consumer_s_loss(
    crowd: Crowd, record: Record
) -> None:
    def cause(one: Neighbour) -> float:
        one.lose_channel()
        return time.monotonic()

    harm("one of four on a connection: channel closed (406)", crowd(), record, cause)


def test_a_consumer_timeout_is_one_consumer_s_loss(
    victim: Broker, crowd: Crowd, record: Record
) -> None:
    release = threading.Event()

    def late(_channel: Any, method: Any, *_: Any) -> None:
        if not method.redelivered:
            release.wait(60)

    def cause(one: Neighbour) -> float:
        peer = Peer(victim.parameters())
        peer.publish(one.queue, FAULT)
        peer.close()
        over = time.monotonic() + one.consuming.first(False, time.monotonic(), 10.0)
        release.set()
        return over

    victim.ctl(
        "eval",
        "application:set_env(rabbit, consumer_timeout, 1000),"
        "application:set_env(rabbit, channel_tick_interval, 500).",
    )
    try:
        neighbours = crowd(fault=late)
        harm("one of four on a connection: consumer timeout", neighbours, record, cause)
    finally:
        release.set()
        victim.ctl(
            "eval",
            "application:set_env(rabbit, consumer_timeout, 1800000),"
            "application:set_env(rabbit, channel_tick_interval, 60000).",
        )


def test_a_deleted_queue_is_one_consumer_s_loss(
    victim: Broker, crowd: Crowd, record: Record
) -> None:
    def cause(one: Neighbour) -> float:
        peer = Peer(victim.parameters())
        with one.load.held_up():
            peer.channel.queue_delete(one.queue)
            over = time.monotonic()
            eventually(lambda: peer.has(one.queue), BOUND, "the queue is there again")
        peer.close()
        return over

    harm("one of four on a connection: queue deleted", crowd(), record, cause, is_seen=True)


def test_a_permission_that_goes_for_a_while_is_one_consumer_s_loss(
    victim: Broker, crowd: Crowd, record: Record
) -> None:
    """It is asked for with each new channel; and who has consumed before doesn't give up (403)."""

    def permit(configure: str, read: str) -> None:
        victim.ctl("set_permissions", "-p", VHOST, LIMITED, configure, ".*", read)

    usual = r"^input\..*"

    def cause(one: Neighbour) -> float:
        without = rf"^input\.(?!{one.queue.removeprefix('input.')}$)"
        permit(without, without)
        one.lose_channel()
        eventually(lambda: not one.consumer.is_consuming)
        time.sleep(1.0)
        assert not one.consumer.is_consuming
        assert one.consumer.failure is None
        permit(usual, usual)
        return time.monotonic()

    try:
        neighbours = crowd(victim.parameters(user=LIMITED))
        harm("one of four on a connection: permission gone for 1 s", neighbours, record, cause)
    finally:
        permit(usual, usual)


def test_a_consumer_that_can_t_start_holds_up_nobody_however_long_its_error_handler_takes(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    connection = Connection([broker.parameters()])
    consume(echo, connection)
    assert "echo" in peer.ask(queue)
    told, on_loop, over, ended = (threading.Event() for _ in range(4))

    def slow(consumer: Any, error: Exception) -> None:
        if connection.is_own_thread:
            on_loop.set()
        told.set()
        over.wait(60)
        ended.set()

    taken = peer.declare("", exclusive=True)
    other = consume(echo, connection, queue=taken, within=0, error_func=slow)
    assert told.wait(60)
    assert "echo" in peer.ask(queue)
    assert not ended.is_set() and not on_loop.is_set()
    over.set()
    eventually(lambda: not other.is_alive())
    assert "exclusively" in str(other.failure)


def test_the_loss_of_a_shared_connection_is_one_recovery_with_one_line(
    victim: Broker, crowd: Crowd, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy(victim.port) as proxy, ExitStack() as stack:
        neighbours = crowd(victim.parameters(port=proxy.port))
        for each in neighbours:
            stack.enter_context(each.watched())
        time.sleep(0.5)
        before = resources()
        caplog.clear()
        began = time.monotonic()
        proxy.end(reset=True)
        gone = began + max(each.consuming.first(False, began, 10.0) for each in neighbours)
        recovery = max(each.consuming.first(True, gone, BOUND) for each in neighbours)
        time.sleep(0.3)
        warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert len([text for text in warnings if "connection lost" in text]) == 1, warnings
        assert len(warnings) == 1, warnings
        assert all(now <= then for now, then in zip(resources(), before, strict=True))
        stack.close()
        books = [each.load.check() for each in neighbours]
        record(
            "one connection of four consumers ended (RST)",
            bound=BOUND,
            recovery=round(recovery, 3),
            **{key: sum(book[key] for book in books) for key in books[0]},
        )
        assert recovery <= BOUND
        for each in neighbours:
            each.consumer.stop(5)
        for each in neighbours:
            each.consumer.join(60)
