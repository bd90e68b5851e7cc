"""No message costs more than itself, whatever it does to the connection: what a peer may send, and the net below."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pika
import pytest
from mq_connector import Channel, payload
from waiting import eventually

from .broker import Broker
from .conftest import Consume, echo
from .peer import Peer
from .proxy import Proxy

pytestmark = pytest.mark.timeout(300)

COUNT, CULPRIT = 50, 20
#: Times that the culprit may cost a connection.
LOSSES = 4
#: A frame of no type that there is, as from a broker that has lost the thread.
RUBBISH = b"\xff" * 64
KINDS: dict[str, dict[str, Any]] = {
    "quorum": {"durable": True, "arguments": {"x-queue-type": "quorum"}},
    "classic": {},
}


def answers(peer: Peer, replies: str) -> Counter[str]:
    """How many each request got, once all have one; only the culprit's may be an error."""
    found: Counter[str] = Counter()
    deadline = time.monotonic() + 60
    coming = peer.channel.consume(replies, auto_ack=True, inactivity_timeout=0.05)
    while len(found) < COUNT and time.monotonic() < deadline:
        _, _, body = next(coming)
        if body is not None:
            reply = payload.decode(body)
            found[reply["message_id"]] += 1
            assert reply.get("success", True) or reply["message_id"] == str(CULPRIT), reply
    peer.channel.cancel()
    assert set(found) == {str(number) for number in range(COUNT)}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_costs_the_connection_each_time_is_dead_lettered_and_nothing_else(
    broker: Broker, peer: Peer, queue: str, consume: Consume, kind: str
) -> None:
    """Whatever it may be: nobody has foreseen it."""
    peer.declare(queue, **KINDS[kind])
    dead = peer.declare_dead(queue)
    replies = peer.declare("", exclusive=True)
    for number in range(COUNT):
        peer.publish(queue, {"message_id": str(number), "routing_key": replies})
    calls: list[bool] = []

    with Proxy(broker.port) as proxy:

        def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
            if payload.decode(body)["message_id"] == str(CULPRIT):
                calls.append(method.redelivered)
                proxy.inject(RUBBISH)
                eventually(lambda: channel.is_closed)
            else:
                echo(channel, method, properties, body)

        consumer = consume(handle, at=broker.parameters(port=proxy.port), queue=queue, prefetch=0)
        answers(peer, replies)
        peer.rests_at(dead, 1)
        peer.rests_at(queue, 0, consumers=1)
        assert len(calls) <= LOSSES
        assert consumer.is_consuming


@pytest.mark.parametrize("kind", KINDS)
def test_a_routing_key_that_is_no_text_is_read_like_any_other(
    peer: Peer, queue: str, consume: Consume, kind: str
) -> None:
    """Whoever may publish to the default exchange can have it delivered, by the header ``CC``."""
    peer.declare(queue, **KINDS[kind])
    dead = peer.declare_dead(queue)
    replies = peer.declare("", exclusive=True)
    for number in range(COUNT):
        body = payload.encode({"message_id": str(number), "routing_key": replies})
        if number == CULPRIT:
            copies = pika.BasicProperties(headers={"CC": [queue]})
            key: Any = b"\xff\xfe"
            peer.channel.basic_publish("", key, body, copies)
        else:
            peer.publish(queue, body)
    keys: set[str] = set()

    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        keys.add(method.routing_key)
        echo(channel, method, properties, body)

    consumer = consume(handle, queue=queue, prefetch=0)
    assert answers(peer, replies).total() == COUNT
    assert keys == {queue, r"\xff\xfe"}
    peer.rests_at(queue, 0, consumers=1)
    peer.rests_at(dead, 0)
    assert consumer.is_consuming
