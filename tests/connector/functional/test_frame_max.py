"""Frames as small as AMQP allows (4096 bytes): whatever is larger than one still comes and goes."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from mq_connector import Publisher
from mq_connector.connection import Connection
from mq_connector.errors import PublishError
from waiting import eventually

from .broker import Broker
from .conftest import Consume
from .peer import Peer

SMALLEST = 4096
BODY = bytes(range(256)) * 512
#: Headers that fit into a frame beside the other properties, and such that don't.
FITTING, LARGE = {"a": "x" * 3900}, {"a": "x" * 4100}


def test_one_bad_message_costs_one_message_where_frames_are_small(
    broker: Broker, peer: Peer, consume: Consume, queue: str
) -> None:
    """A body of many frames goes both ways. Headers too large for a frame are an error of who publishes them; a
    message with little room left in its headers can be dead-lettered, too."""
    dead, replies = peer.declare_dead(queue), peer.declare(f"{queue}.replies")

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if body == b"fails":
            raise ValueError("y" * 5000)
        headers = LARGE if body == b"large" else FITTING
        channel.basic_publish("", replies, body, pika.BasicProperties(headers=headers))

    consumer = consume(handle, at=broker.parameters(frame_max=SMALLEST))
    assert consumer.is_consuming
    for body, headers in (
        (b"large", {}),
        (b"fails", FITTING),
        (b"fails", {}),
        (BODY, FITTING),
        (b"last", {}),
    ):
        peer.publish(queue, body, headers=headers)
    eventually(lambda: (peer.count(replies)[0], peer.count(dead)[0]) == (2, 3))
    assert [peer.take(replies)[1] for _ in range(2)] == [BODY, b"last"]
    letters = [peer.take(dead) for _ in range(3)]
    assert sorted(body for _, body in letters) == [b"fails", b"fails", b"large"]


def test_headers_that_do_not_fit_are_an_error_of_who_publishes_them(
    broker: Broker, peer: Peer, queue: str
) -> None:
    """And of nobody else on the connection: the broker would end it."""
    peer.declare(queue)
    with Publisher(Connection([broker.parameters(frame_max=SMALLEST)])) as publisher:
        properties = [pika.BasicProperties(headers=each) for each in (FITTING, LARGE, FITTING)]
        before, large, behind = [publisher.publish("", queue, BODY, each) for each in properties]
        with pytest.raises(PublishError, match="4076 are possible: put what the headers hold"):
            large.result(30)
        before.result(30)
        behind.result(30)
    assert peer.count(queue)[0] == 2


def test_a_message_from_a_client_with_larger_frames_comes(
    broker: Broker, peer: Peer, consume: Consume, queue: str
) -> None:
    """The broker doesn't cut headers."""
    came: list[tuple[Any, bytes]] = []
    consume(
        lambda _channel, _method, properties, body: came.append((properties.headers, body)),
        at=broker.parameters(frame_max=SMALLEST),
    )
    headers = {"a": "x" * 20_000}
    for body in (BODY, b""):
        peer.publish(queue, body, headers=headers)
    eventually(lambda: len(came) == 2)
    assert came == [(headers, BODY), (headers, b"")]
