"""RabbitMQ 4.0 and 4.3: how often a message comes again, and what a handler that is too slow costs.

They count differently. To 4.0 every return of a message is a failed delivery; to 4.3 a `basic.reject`
and a lost channel are, but neither a `basic.nack` nor a time-out. And where earlier brokers close the
channel of who doesn't acknowledge in time, 4.3 sends `basic.cancel` and takes the late messages back.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pytest
from mq_connector.commands.session import Session
from mq_connector.connection import input_queue
from mq_connector.errors import ChannelError
from waiting import eventually

from .conftest import Consume
from .load import Load
from .newer import LIMIT, TIMEOUT, Newer, sharing
from .peer import Peer
from .test_retry import DELAY, Retrying
from .test_single_active import all_are_handled_once

#: Seconds from the broker's cancel, or its closing the channel, until messages are consumed again.
BOUND = 2.0
#: Seconds for whatever has no bound of its own.
PATIENCE = 60.0
QUORUM = {"x-queue-type": "quorum"}

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=sharing("4.0", "4.3"))
def broker(request: pytest.FixtureRequest, newer: Callable[[str], Newer]) -> Newer:
    """One container of each generation, in the place of the broker that is installed."""
    return newer(request.param)


@pytest.fixture
def timed(broker: Newer, queue: str) -> str:
    """Name of a queue whose consumers have to acknowledge within `TIMEOUT`."""
    if broker.name == "4.0":  # looks once a minute; 4.3 has a timer for each message
        broker.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 250).")
    return f"{queue}.timed"


def reason(properties: pika.BasicProperties) -> Any:
    """Why the broker has dead-lettered a message."""
    headers: Any = properties.headers
    return headers["x-death"][0]["reason"]


def test_a_trial_of_legacy_declarations_that_breaks_off_leaves_no_queue_and_finds_out_the_same(
    broker: Newer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_queue, "_SHORT_LIVED", {"x-expires": 500})
    with Session([broker.parameters()], PATIENCE) as session:
        first = next(input_queue.tolerates_legacy(queue))
        name = session.do(first).method.queue
        assert name.startswith(f"{queue}.probe.")
        eventually(lambda: session.run(input_queue.exists(name)) is None, PATIENCE)
        monkeypatch.undo()
        found = session.run(input_queue.tolerates_legacy(queue))
        session.do(input_queue.declare(queue, durable=True, arguments=QUORUM))
        try:
            session.do(input_queue.declare(queue))
        except ChannelError:
            assert found is False
        else:
            assert found is True
        session.do(input_queue.delete(queue))


def test_a_retried_message_comes_again_with_growing_pauses_and_is_dead_lettered_at_the_limit(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """Were it handed back by `basic.nack`, 4.3 would hand it out for ever."""
    queue = f"{queue}.counted"
    dead = peer.declare_dead(queue)
    retrying = Retrying()
    consume(retrying, queue=queue, queue_type="quorum")
    peer.publish(queue, b"x")
    properties, body = peer.take(dead, within=60)
    assert body == b"x"
    assert reason(properties) == "delivery_limit"
    assert [redelivered for _, redelivered, _ in retrying.calls] == [False, *[True] * LIMIT]
    assert [count for *_, count in retrying.calls] == [None, *range(1, LIMIT + 1)]
    for number, pause in enumerate(retrying.pauses):
        assert DELAY * 2**number <= pause < DELAY * 2**number + 2
    peer.rests_at(queue, 0, consumers=1)
    assert len(retrying.calls) == LIMIT + 1


def test_a_message_whose_handler_raises_is_dead_lettered_after_one_delivery(
    peer: Peer, queue: str, consume: Consume
) -> None:
    queue = f"{queue}.counted"
    dead = peer.declare_dead(queue)
    calls: list[bytes] = []

    def handle(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        calls.append(body)
        if body == b"poison":
            raise ValueError("the handler can't stand this one")

    consumer = consume(handle, queue=queue, queue_type="quorum")
    peer.publish(queue, b"poison")
    properties, body = peer.take(dead)
    assert body == b"poison"
    assert (properties.headers or {})["x-exception-type"] == "ValueError"
    peer.publish(queue, b"next")
    eventually(lambda: b"next" in calls)
    consumer.stop(5)
    consumer.join(60)
    peer.rests_at(queue, 0)
    assert calls == [b"poison", b"next"]


#: A consumer that the message b"poison" kills, before anything can be told to the broker.
MORTAL = """
import os, sys
sys.path.insert(0, {path!r})
import pika
from mq_connector import ConsumerThread
from mq_connector.config import Limits

def handle(_channel, _method, _properties, body):
    print(body.decode(), flush=True)
    if body == b"poison":
        os._exit(1)

where = pika.ConnectionParameters(
    "127.0.0.1", {port}, {vhost!r}, pika.PlainCredentials({user!r}, {password!r})
)
limits = Limits(queue_type="quorum", prefetch=1)
consumer = ConsumerThread(where, {queue!r}, handle, limits=limits)
consumer.start()
consumer.join()
"""


def life(code: str, expected: int) -> list[str]:
    """What a process was handed until it died of it, or until it had as many messages as expected."""
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", code], stdout=subprocess.PIPE, text=True
    )
    deadline = threading.Timer(20, process.kill)
    deadline.start()
    got: list[str] = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            got.append(line.strip())
            if len(got) == expected and got[-1] != "poison":
                process.kill()
    deadline.cancel()
    return got


def test_a_late_acknowledgement_loses_nothing_under_load(
    broker: Newer, timed: str, consume: Consume
) -> None:
    """One worker of four is late again and again while the others acknowledge what they have."""
    peer = Peer(broker.parameters())
    load = Load(broker, timed)
    late: list[bool] = []

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if body == b"slow":
            late.append(method.redelivered)
            if len(late) <= 2:
                time.sleep(TIMEOUT / 1000 + 0.5)
        else:
            load.handle(channel, method, properties, body)

    consumer = consume(handle, queue=timed, queue_type="quorum", workers=4, prefetch=40)
    with load:
        peer.publish(timed, b"slow")
        eventually(lambda: len(late) >= 3, what="the slow one is delivered until it is in time")
    load.check()
    assert late[0] is False and all(late[1:])
    assert consumer.is_consuming
    peer.rests_at(timed, 0, consumers=1)
    consumer.stop(10)
    consumer.join(60)
    assert not consumer.is_alive() and consumer.unfinished == 0
    peer.rests_at(timed, 0, consumers=0)
    peer.close()


class HangsOnce:
    """A callback that hangs in a message `hangs` until it is released, but not where that comes again."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.release = threading.Event()

    def __call__(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        self.calls.append(body)
        if body == b"hangs" and not method.redelivered:
            self.release.wait(60)


def test_of_a_classic_queue_4_3_times_out_nobody_and_how_long_a_worker_has_been_busy_tells(
    broker: Newer, timed: str, consume: Consume
) -> None:
    peer = Peer(broker.parameters())
    peer.declare(timed, durable=True, arguments={"x-queue-type": "classic"})
    handle = HangsOnce()
    consumer = consume(handle, queue=timed)
    try:
        peer.publish(timed, b"hangs")
        if broker.name == "4.3":
            eventually(lambda: consumer.busy_for > 4 * TIMEOUT / 1000)
            assert handle.calls == [b"hangs"]
        else:
            eventually(lambda: handle.calls == [b"hangs"] * 2)
    finally:
        handle.release.set()
    peer.publish(timed, b"next")
    eventually(lambda: b"next" in handle.calls)
    peer.rests_at(timed, 0)
    peer.close()


def test_a_stop_does_not_wait_for_a_callback_whose_message_the_broker_has_taken_back(
    broker: Newer, timed: str, consume: Consume
) -> None:
    """It has been handled by another worker since, and nothing of it is unfinished."""
    peer = Peer(broker.parameters())
    peer.declare(timed, durable=True, arguments={"x-queue-type": "quorum"})
    handle = HangsOnce()
    consumer = consume(handle, queue=timed, queue_type="quorum", prefetch=40)
    try:
        # To the consumer that stays: of one that was replaced 4.3 can cancel nothing, and closes the channel.
        peer.publish(timed, b"first")
        eventually(lambda: handle.calls and consumer.is_consuming)
        time.sleep(0.5)
        peer.publish(timed, b"hangs")
        number = 0
        while handle.calls.count(b"hangs") < 2:
            # In a queue in which nothing happens, 4.3 was seen to let the time pass.
            number += 1
            peer.publish(timed, b"%d" % number)
            time.sleep(0.2)
        eventually(lambda: b"%d" % number in handle.calls, what="it goes on")
        peer.rests_at(timed, 0, consumers=1)
        began = time.monotonic()
        consumer.stop(20)
        consumer.join(60)
        assert time.monotonic() - began < 10
        assert not consumer.unfinished and not consumer.is_cut_short
    finally:
        handle.release.set()
    peer.rests_at(timed, 0, consumers=0)
    peer.close()


def test_what_waits_behind_a_late_message_is_handled_once_and_as_redelivered(
    broker: Newer, timed: str, consume: Consume
) -> None:
    """It is late as well when the late one is: whoever began it then would do it for nothing."""
    peer = Peer(broker.parameters())
    peer.declare(timed, durable=True, arguments={"x-queue-type": "quorum"})
    handled: list[tuple[bytes, bool]] = []
    late = threading.Event()

    def handle(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        handled.append((body, method.redelivered))
        if body == b"slow" and not late.is_set():
            late.set()
            time.sleep(TIMEOUT / 1000 + 1.0)

    waiting = [b"%d" % number for number in range(20)]
    for body in (b"slow", *waiting):
        peer.publish(timed, body)
    consumer = consume(handle, queue=timed, queue_type="quorum", prefetch=40)
    assert late.wait(60)
    eventually(lambda: len(handled) >= 2 + len(waiting), what=lambda: str(handled))
    peer.rests_at(timed, 0, consumers=1)
    assert handled[0] == (b"slow", False)
    assert sorted(handled[1:]) == sorted((body, True) for body in (b"slow", *waiting))
    consumer.stop(10)
    consumer.join(60)
    peer.close()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_none_is_lost_or_handled_twice_by_replicas_that_may_hand_over(
    broker: Newer, kind: str
) -> None:
    """Of a queue with a single active consumer; `test_single_active` says when they do."""
    all_are_handled_once(broker, kind)
