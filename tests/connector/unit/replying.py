"""The broker's end of a client: a service that replies, and clients that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mq_connector import payload
from mq_connector.client import Client
from mq_connector.connection import Connection
from pika import spec

from . import wire
from .fake_broker import BrokerEnd


def ready(peer: BrokerEnd) -> tuple[int, Any]:
    """Everything up to the client's consumer; returns its channel and how it declared its queue."""
    peer.open()
    return ready_channel(peer)


def ready_channel(peer: BrokerEnd) -> tuple[int, Any]:
    """The same on a connection that is open."""
    channel = peer.open_channel()
    peer.confirm(channel)
    declared = peer.expect(spec.Queue.Declare)
    peer.method(channel, spec.Queue.DeclareOk(declared.queue, 0, 0))
    peer.consumer_tag = peer.expect(spec.Basic.Consume).consumer_tag
    peer.method(channel, spec.Basic.ConsumeOk(peer.consumer_tag))
    return channel, declared


def reply(peer: BrokerEnd, channel: int, data: dict[str, Any]) -> None:
    peer.send(*wire.delivery(channel, 1, payload.encode(data), consumer_tag=peer.consumer_tag))


def ack(peer: BrokerEnd, channel: int, tag: int, multiple: bool = False) -> None:
    peer.method(channel, spec.Basic.Ack(tag, multiple))


def requested(peer: BrokerEnd) -> tuple[str, dict[Any, Any], Any]:
    method, properties, body = peer.publish()
    assert method.mandatory
    assert method.exchange == ""
    return method.routing_key, payload.decode(body), properties


def answer_all(peer: BrokerEnd, count: int = 1) -> None:
    """A service that echoes."""
    peer.open()
    answer_all_on_channel(peer, count)


def answer_all_on_channel(peer: BrokerEnd, count: int = 1) -> None:
    channel, _ = ready_channel(peer)
    for tag in range(1, count + 1):
        _, data, _ = requested(peer)
        ack(peer, channel, tag)
        reply(peer, channel, {"message_id": data["message_id"], "echo": data.get("text")})
    peer.farewell()


Ask = Callable[..., Client]


@pytest.fixture
def client() -> Iterator[Ask]:
    made: list[Client] = []

    def make(server: Any, **options: Any) -> Client:
        made.append(Client(Connection([server.parameters()]), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def refused_login(peer: BrokerEnd) -> None:
    peer.greet()
    peer.close(403, "ACCESS_REFUSED")


def locked_queue(peer: BrokerEnd) -> None:
    """To a client that then drops the connection."""
    peer.open()
    channel = peer.open_channel()
    peer.confirm(channel)
    peer.expect(spec.Queue.Declare)
    peer.close_channel(channel, 405, "RESOURCE_LOCKED - cannot obtain exclusive access")


def refused_queue(peer: BrokerEnd) -> None:
    """The same, to one that closes it."""
    locked_queue(peer)
    peer.farewell()
