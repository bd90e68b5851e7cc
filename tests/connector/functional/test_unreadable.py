"""Headers that pika can't read cost nobody the connection, wherever they come from."""

from __future__ import annotations

import struct
from typing import Any

import pika
import pytest
from mq_connector import Channel, payload
from waiting import eventually

from .conftest import Consume
from .headers import Raw, field, nested
from .peer import Peer
from .test_calling import Make, Service, make

__all__ = ["make"]
pytestmark = pytest.mark.timeout(120)

#: As any client may send them, to any queue whose name it knows.
HEADERS = {
    "a time beyond the year 9999": field("t", b"T", struct.pack(">Q", 2**63)),
    "too deep": nested(2000),
}


def send(peer: Peer, queue: str, headers: bytes, body: bytes) -> None:
    peer.channel.basic_publish("", queue, body, Raw(headers), mandatory=True)


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_a_reply_with_them_costs_no_connection(make: Make, peer: Peer, headers: bytes) -> None:
    """It is a reply like any other, as nobody asks for its headers."""
    queue = peer.declare("", exclusive=True)
    service: Service = make(lambda request: service.ask(queue, {}, timeout=60))
    replies = peer.declare("")
    peer.publish(service.queue, {"message_id": "1", "routing_key": replies})
    request = payload.decode(peer.take(queue, 60)[1])
    link = service.create_mq_connection().link
    send(
        peer,
        request["routing_key"],
        headers,
        payload.encode({"message_id": request["message_id"], "told": 42}),
    )
    assert peer.reply(replies, 60)["told"] == 42
    assert service.create_mq_connection().link is link


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_a_message_with_them_that_a_handler_gets_costs_no_connection(
    peer: Peer, queue: str, consume: Consume, headers: bytes
) -> None:
    other = peer.declare("", auto_delete=True)
    send(peer, other, headers, b"odd")
    got: list[Any] = []

    def handle(channel: Channel, *_: Any) -> None:
        got.append(channel.basic_get(other, auto_ack=True))

    consumer = consume(handle)
    link = consumer.connection.link
    peer.publish(queue, b"x")
    eventually(lambda: got, what="the handler has it")
    assert [body for _, _, body in got] == [b"odd"]
    assert consumer.connection.link is link


def test_what_a_handler_has_published_with_them_costs_no_connection_as_it_comes_back(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """The deeper the reader stands itself, the less deep is what it can read."""
    levels = range(380, 500)
    handled: list[int] = []

    def handle(channel: Channel, _method: Any, properties: Any, body: bytes) -> None:
        try:  # from some depth on neither can be done, which is the message's own failure
            again = pika.BasicProperties(headers=properties.headers, expiration="200")
            channel.basic_publish("", f"{queue}.{int(body)}.missing", body, again)
        finally:
            handled.append(int(body))

    consumer = consume(handle)
    link = consumer.connection.link
    for each in levels:
        send(peer, queue, nested(each), b"%d" % each)
    eventually(lambda: len(handled) >= len(levels))
    peer.rests_at(queue, 0, consumers=1)
    handling = consumer._supervision._handling
    assert handling is not None
    eventually(lambda: not handling.outbox.is_busy, what="all have come back, and are given up")
    assert len(handled) == len(levels)
    assert consumer.connection.link is link
