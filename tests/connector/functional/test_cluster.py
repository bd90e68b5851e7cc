"""A quorum queue on three nodes under load: any of them may die, and no confirmed message is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from local import NoServer
from mq_connector import ConsumerThread, MQConnector
from mq_connector.config import Limits
from waiting import eventually

from .broker import PASSWORD, USER, VHOST
from .cluster import Cluster, Node
from .conftest import Record
from .load import Load
from .peer import Peer

#: Seconds until new messages are processed after the death of the queue's leader, or of the node that
#: the service is connected to.
LEADER_BOUND, NODE_BOUND = 10.0, 5.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes; who kills one starts it again."""
    try:
        cluster = Cluster()
    except NoServer as error:
        pytest.skip(str(error))
    with cluster:
        yield cluster


def servers(*nodes: Node) -> str:
    """`server` of a configuration."""
    return ",".join(f"127.0.0.1:{node.port}" for node in nodes)


Serve = Callable[..., ConsumerThread]


@pytest.fixture
def serve(queue: str) -> Iterator[Serve]:
    """A consumer that knows the hosts from its configuration."""
    started: list[ConsumerThread] = []

    def serve(load: Load, *nodes: Node) -> ConsumerThread:
        user = {"username": USER, "password": PASSWORD}
        service = MQConnector({"server": servers(*nodes), "users": {"mine": user}}, "mine")
        service.vhost = VHOST
        limits = Limits(workers=4, prefetch=50, queue_type="quorum")
        where = service.create_mq_connection()
        consumer = ConsumerThread(where, queue, load.handle, limits=limits)
        consumer.start()
        started.append(consumer)
        eventually(lambda: consumer.is_consuming)
        return consumer

    yield serve
    for consumer in started:
        consumer.stop(5)
        consumer.join(60)
        assert not consumer.is_alive()


def port_of(consumer: ConsumerThread) -> int:
    """Where the consumer is connected to."""
    link = consumer.connection.link
    assert link is not None
    port: int = link.amqp.params.port
    return port


def make_queue(cluster: Cluster, queue: str) -> Node:
    """Make a quorum queue with a replica on each node; returns its leader."""
    peer = Peer(cluster.nodes[0].parameters())
    peer.declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    peer.close()
    time.sleep(1.5)  # younger ones don't survive, whoever consumes them
    return cluster.leader(queue)


def new_ones_after(load: Load, since: float) -> float:
    """Wait until a message is processed that was sent from now on; returns seconds since then."""
    mark = load.sent
    eventually(lambda: any(n > mark for n in list(load.processed)[-50:]), what="new ones processed")
    return time.monotonic() - since


def test_neither_the_leader_s_death_nor_that_of_our_node_loses_a_message(
    cluster: Cluster, queue: str, serve: Serve, record: Record
) -> None:
    leader = make_queue(cluster, queue)
    ours, spare = [node for node in cluster.nodes if node is not leader]
    load = Load(cluster, queue, pause=0.01)
    consumer = serve(load, ours, spare, leader)
    assert port_of(consumer) == ours.port
    with load:
        time.sleep(1)
        with load.in_hand():
            began = time.monotonic()
            leader.kill()
        without_leader = new_ones_after(load, began)
        assert port_of(consumer) == ours.port, "the service had no reason to move"
        assert cluster.leader(queue, [ours]) is not leader
        leader.start()
        new_ones_after(load, time.monotonic())

        with load.in_hand():
            began = time.monotonic()
            ours.kill()
        without_ours = new_ones_after(load, began)
        assert consumer.is_consuming and port_of(consumer) in (spare.port, leader.port)
        ours.start()
        new_ones_after(load, time.monotonic())
    ledger = load.check(20)
    record(
        "cluster of three: the queue's leader killed",
        bound=LEADER_BOUND,
        recovery=round(without_leader, 3),
        **ledger,
    )
    record(
        "cluster of three: the service's node killed",
        bound=NODE_BOUND,
        recovery=round(without_ours, 3),
        **ledger,
    )
    assert without_leader <= LEADER_BOUND
    assert without_ours <= NODE_BOUND


def test_each_node_may_be_restarted_in_turn(
    cluster: Cluster, queue: str, serve: Serve, record: Record
) -> None:
    make_queue(cluster, queue)
    load = Load(cluster, queue, pause=0.01)
    consumer = serve(load, *cluster.nodes)
    took = []
    with load:
        for node in cluster.nodes:
            time.sleep(0.5)
            with load.in_hand():
                began = time.monotonic()
                node.stop()
            took.append(new_ones_after(load, began))
            node.start()
            new_ones_after(load, time.monotonic())
    assert consumer.is_consuming
    record(
        "cluster of three: rolling restart",
        bound=LEADER_BOUND + 10.0,
        recovery=round(max(took), 3),
        **load.check(20),
    )


def test_hosts_are_tried_in_turn_until_one_answers(
    cluster: Cluster, queue: str, serve: Serve
) -> None:
    make_queue(cluster, queue)
    first, second, third = cluster.nodes
    load = Load(cluster, queue, pause=0.01)
    first.kill()
    try:
        consumer = serve(load, first, second, third)
        assert port_of(consumer) == second.port
        second.kill()
        try:
            # Without a majority the queue has no leader, and nobody can consume: that is said.
            eventually(lambda: not consumer.is_consuming)
            time.sleep(1)
            assert not consumer.is_consuming
        finally:
            second.start()
    finally:
        first.start()
    with load:
        eventually(lambda: len(load.confirmed) > 100)
    load.check(20)
