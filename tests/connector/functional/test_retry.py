"""A handler that asks for a retry: later and later, counted by the broker, and never for ever."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from baked import CONNECTOR
from mq_connector import RetryMessage
from waiting import eventually

from .broker import DEAD_LETTERS, PASSWORD, USER, VHOST, Broker
from .conftest import Consume
from .peer import Peer, death_of

#: What the policy of these tests allows.
LIMIT = 3
#: Seconds between two deliveries in these tests; the first pause.
DELAY = 0.1


@pytest.fixture(scope="module")
def counted(broker: Broker) -> Iterator[None]:
    """A delivery limit for queues called `input.….counted`, as the service's definitions have one."""
    definition = f'{{"delivery-limit": {LIMIT}, "dead-letter-exchange": "{DEAD_LETTERS}"}}'
    broker.ctl(
        *("set_policy", "-p", VHOST, "--apply-to", "queues", "--priority", "9"),
        *("counted", r"^input\..*\.counted$", definition),
    )
    yield
    broker.ctl("clear_policy", "-p", VHOST, "counted")


class Retrying:
    """A callback that asks for a retry each time, and notes when it was called with what."""

    def __init__(self, until: int = 1000, delay: float = DELAY) -> None:
        #: Time (`time.monotonic`), whether redelivered, and the broker's count, of each delivery.
        self.calls: list[tuple[float, bool, Any]] = []
        self._until = until
        self._delay = delay

    def __call__(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        count = (properties.headers or {}).get("x-delivery-count")
        self.calls.append((time.monotonic(), method.redelivered, count))
        if len(self.calls) < self._until:
            raise RetryMessage(self._delay)

    @property
    def pauses(self) -> list[float]:
        times = [at for at, *_ in self.calls]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_a_quorum_queue_s_message_comes_again_with_growing_pauses_until_it_is_handled(
    peer: Peer, queue: str, consume: Consume, counted: None
) -> None:
    queue = f"{queue}.counted"
    dead = peer.declare_dead(queue)
    retrying = Retrying(until=LIMIT + 1)
    consumer = consume(retrying, queue=queue, queue_type="quorum")
    peer.publish(queue, b"x")
    eventually(lambda: len(retrying.calls) == LIMIT + 1)
    assert [redelivered for _, redelivered, _ in retrying.calls] == [False, True, True, True]
    assert [count for *_, count in retrying.calls] == [None, 1, 2, 3]
    for pause, least in zip(retrying.pauses, (DELAY, 2 * DELAY, 4 * DELAY), strict=True):
        assert least <= pause < least + 0.5
    consumer.stop(1)
    consumer.join(60)
    peer.rests_at(queue, 0)
    peer.rests_at(dead, 0)


def test_past_the_policy_s_limit_the_message_is_dead_lettered(
    peer: Peer, queue: str, consume: Consume, counted: None
) -> None:
    queue = f"{queue}.counted"
    dead = peer.declare_dead(queue)
    retrying = Retrying(delay=0.01)
    told: list[Any] = []
    consume(retrying, queue=queue, queue_type="quorum", error_func=lambda *_: told.append(_))
    peer.publish(queue, b"x")
    properties, body = peer.take(dead)
    assert body == b"x"
    assert death_of(properties)["reason"] == "delivery_limit"
    assert len(retrying.calls) == LIMIT + 1
    assert not told, "a retry is no failure"
    time.sleep(0.2)
    assert len(retrying.calls) == LIMIT + 1
    peer.rests_at(queue, 0)


def test_a_transient_queue_does_not_count_so_one_retry_is_all(
    peer: Peer, queue: str, consume: Consume
) -> None:
    dead = peer.declare_dead(queue)
    retrying = Retrying()
    consume(retrying, queue_type="legacy")
    peer.publish(queue, b"x")
    properties, _ = peer.take(dead)
    assert (properties.headers or {})["x-exception-type"] == "RetryMessage"
    assert [redelivered for _, redelivered, _ in retrying.calls] == [False, True]
    assert retrying.pauses[0] >= DELAY


@pytest.mark.parametrize("queue_type", ["quorum", "legacy"])
def test_others_are_handled_while_a_retry_waits(
    peer: Peer, queue: str, consume: Consume, queue_type: str
) -> None:
    seen: list[bytes] = []

    def handle(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        seen.append(body)
        if body == b"again" and not method.redelivered:
            raise RetryMessage(2.0)

    consume(handle, queue_type=queue_type)
    peer.publish(queue, b"again")
    for number in range(50):
        peer.publish(queue, b"%d" % number)
    eventually(lambda: seen.count(b"again") == 2)
    assert seen == [b"again", *(b"%d" % number for number in range(50)), b"again"]


@pytest.mark.parametrize("queue_type", ["quorum", "legacy"])
def test_a_stop_puts_what_waits_for_its_retry_back_at_once(
    peer: Peer, queue: str, consume: Consume, queue_type: str
) -> None:
    retrying = Retrying(delay=600)
    consumer = consume(retrying, queue_type=queue_type)
    for _ in range(3):
        peer.publish(queue, b"x")
    eventually(lambda: len(retrying.calls) == 3)
    time.sleep(0.1)
    peer.rests_at(queue, 0)
    consumer.stop(600)
    consumer.join(60)
    assert not consumer.is_alive()
    assert consumer.unfinished == 0
    peer.rests_at(queue, 3)


def test_a_retry_that_waits_does_not_outlive_its_connection(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """The broker has the message again; the timer of the old one must not touch its successor."""
    seen: list[bool] = []
    release = threading.Event()

    def handle(_channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        seen.append(method.redelivered)
        if not method.redelivered:
            raise RetryMessage(0.6)
        release.wait(60)

    consumer = consume(handle)
    peer.publish(queue, b"x")
    eventually(lambda: seen == [False])
    time.sleep(0.1)
    consumer.connection.call(consumer.connection.drop)
    eventually(lambda: seen == [False, True])
    time.sleep(1.0)  # past the old timer: a reject now would hand the message out again
    assert seen == [False, True]
    peer.rests_at(queue, 0)
    release.set()
    consumer.stop(2)
    consumer.join(60)
    peer.rests_at(queue, 0)


#: A consumer whose handler asks for retries for ever.
KILLED = """
import sys
sys.path.insert(0, {path!r})
import pika
from mq_connector import ConsumerThread, RetryMessage
from mq_connector.config import Limits

def handle(*_):
    print("in hand", flush=True)
    raise RetryMessage(60)

where = pika.ConnectionParameters(
    "127.0.0.1", {port}, {vhost!r}, pika.PlainCredentials({user!r}, {password!r})
)
consumer = ConsumerThread(where, {queue!r}, handle, limits=Limits(queue_type={kind!r}))
consumer.start()
consumer.join()
"""


@pytest.mark.parametrize("kind", ["quorum", "legacy"])
def test_sigkill_while_retries_wait_loses_nothing(
    broker: Broker, peer: Peer, queue: str, kind: str
) -> None:
    peer.declare(
        queue,
        **({"durable": True, "arguments": {"x-queue-type": "quorum"}} if kind == "quorum" else {}),
    )
    for number in range(20):
        peer.publish(queue, b"%d" % number)
    code = KILLED.format(
        path=str(Path(CONNECTOR).parent),
        port=broker.port,
        vhost=VHOST,
        user=USER,
        password=PASSWORD,
        queue=queue,
        kind=kind,
    )
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        for _ in range(20):
            assert process.stdout.readline() == "in hand\n"
        time.sleep(0.1)
        peer.rests_at(queue, 0)
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: peer.count(queue) == (20, 0))
    assert {int(peer.take(queue)[1]) for _ in range(20)} == set(range(20))
