"""What handlers do to their channel, under load: the messages beside the fault don't notice."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector.errors import ChannelError, MQError, RetryMessage
from mq_connector.payload.request import Request
from waiting import eventually

from .broker import Broker
from .conftest import Record
from .peer import Peer
from .served import FAULT, Handler, Served, blink, shrug

pytestmark = pytest.mark.timeout(300)

#: How often the fault happens under one load.
TIMES = 5


def settle_twice(channel: Any, method: Any, *_: Any) -> None:
    channel.basic_ack(method.delivery_tag)
    channel.basic_ack(method.delivery_tag)
    channel.basic_nack(method.delivery_tag)


def ack_what_never_came(channel: Any, *_: Any) -> None:
    channel.basic_ack(2**40)


def declare_otherwise(channel: Any, method: Any, *_: Any) -> None:
    result = channel.queue_declare(
        method.routing_key, durable=True, arguments={"x-max-length": 7, "x-queue-type": "quorum"}
    )
    with pytest.raises(ChannelError):
        _ = result.method


def look_for_what_is_missing(channel: Any, *_: Any) -> None:
    result = channel.queue_declare("input.no such queue", passive=True)
    with pytest.raises(ChannelError):
        _ = result.method


def fail(*_: Any) -> None:
    raise ValueError("not this one")


def leave(*_: Any) -> None:
    sys.exit(1)


def decode_what_is_hostile(_channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
    deep = json.dumps("(" * 200_000 + ")" * 200_000).encode()
    Request.decode(base64.b64encode(deep), properties)


def sleep(*_: Any) -> None:
    time.sleep(3.5)


def compute(*_: Any) -> None:
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        sum(range(10_000))


def fork(channel: Any, *_: Any) -> None:
    child = os.fork()
    if child == 0:
        with contextlib.suppress(MQError):  # which says that it has to connect for itself
            channel.basic_publish("", "nowhere", b"")
        os._exit(0)
    os.waitpid(child, 0)


def retry(_channel: Any, method: Any, *_: Any) -> None:
    if not method.redelivered:
        raise RetryMessage(0.1)


def error_handler_that_fails(*_: Any) -> None:
    raise RuntimeError("and that too")


FAULTS: dict[str, Handler] = {
    "handler: settles twice": settle_twice,
    "handler: acknowledges what never came": ack_what_never_came,
    "handler: declares a queue otherwise (406)": declare_otherwise,
    "handler: looks for a queue that is missing (404)": look_for_what_is_missing,
    "handler: raises": fail,
    "handler: calls sys.exit": leave,
    "handler: decodes a hostile body": decode_what_is_hostile,
    "handler: forks": fork,
    "handler: asks for a retry": retry,
}
#: With a heartbeat of 1 s, the broker closes a connection that is silent for 2 s.
LONG = {
    "handler: sleeps for three heartbeats": sleep,
    "handler: computes for three heartbeats": compute,
}
#: Whose messages end as dead letters.
FATAL = ("raises", "sys.exit", "hostile")


@pytest.mark.parametrize("name", FAULTS)
def test_what_one_handler_does_costs_the_others_nothing(
    victim: Broker, served: Callable[..., Served], record: Record, queue: str, name: str
) -> None:
    peer = Peer(victim.parameters())
    dead = peer.declare_dead(queue)
    one = served(fault=FAULTS[name])
    shrug(f"{name}, {TIMES} times", one, record, lambda: one.cause(TIMES))
    fatal = any(word in name for word in FATAL)
    peer.rests_at(dead, TIMES if fatal else 0)
    assert one.calls.count(False) == TIMES
    for _ in range(TIMES if fatal else 0):
        assert peer.take(dead)[1] == FAULT
    peer.rests_at(queue, 0)
    peer.close()


def test_an_error_handler_that_fails_costs_the_others_nothing(
    served: Callable[..., Served], record: Record
) -> None:
    one = served(fault=fail, on_error=error_handler_that_fails)
    shrug(
        f"handler: raises, and so does `on_error`, {TIMES} times",
        one,
        record,
        lambda: one.cause(TIMES),
    )


@pytest.mark.parametrize("name", LONG)
def test_a_long_handler_costs_no_heartbeat(
    served: Callable[..., Served], record: Record, name: str
) -> None:
    one = served(fault=LONG[name], heartbeat=1)

    def cause() -> None:
        one.cause()
        time.sleep(4)

    shrug(name, one, record, cause)
    assert one.calls == [False]


def test_an_ack_for_a_connection_that_is_gone_counts_for_no_other(
    served: Callable[..., Served], record: Record
) -> None:
    """The tags of the next connection begin with 1 again, so it would be for somebody else's message."""
    over = threading.Event()

    def hold(channel: Any, method: Any, *_: Any) -> None:
        if not method.redelivered:
            over.wait(60)
            channel.basic_ack(method.delivery_tag)

    one = served(fault=hold)

    def cause() -> None:
        one.cause()
        changes = len(one.consuming.changes)
        one.consumer.connection.call(one.consumer.connection.drop)
        eventually(lambda: len(one.consuming.changes) >= changes + 2, what="it consumes again")
        over.set()
        eventually(lambda: True in one.calls, what="the message comes again")

    blink("handler: acknowledges on a connection that is gone", one, record, cause)
    assert one.calls == [False, True]
