"""A service whose messages die, and what there is then, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mq_connector import MQConnector, payload
from mq_connector.commands import dead
from waiting import eventually

from .broker import PASSWORD, USER, VHOST, Broker
from .conftest import Consume
from .peer import Peer

Show = Callable[[bool], int]


@pytest.fixture
def show(broker: Broker, queue: str) -> Show:
    """`python -m … dead` for one queue."""

    def show(requeue: bool) -> int:
        return dead.show(service(broker.port, queue), requeue)

    return show


def service(port: int, queue: str) -> MQConnector:
    """A service with one input queue, which it doesn't run."""
    config = {"port": port, "users": {"mine": {"username": USER, "password": PASSWORD}}}
    made = MQConnector({**config, "server": "127.0.0.1"}, service_name="mine")
    made.vhost = VHOST
    from mq_connector import ConsumerThread

    consumer = ConsumerThread(made.create_mq_connection(), queue, lambda *_: None)
    made.consumers = {queue: consumer}
    return made


@pytest.fixture
def bury(peer: Peer, queue: str, consume: Consume) -> Callable[..., str]:
    """Let messages die in their handler; returns the name of the queue they come to rest in."""

    def bury(count: int, headers: dict[str, Any] | None = None) -> str:
        where = peer.declare_dead(queue)

        def fail(*_: Any) -> None:
            raise ValueError("no good")

        consumer = consume(fail)
        for number in range(count):
            properties: dict[str, Any] = {
                "message_id": f"m{number}",
                "headers": headers,
                "priority": 3,
            }
            peer.publish(queue, {"number": number}, **properties)
        eventually(lambda: peer.count(where)[0] == count)
        consumer.stop(2)
        consumer.join(60)
        return where

    return bury


def numbers(peer: Peer, queue: str, count: int | None = None) -> list[int]:
    """What is in a queue, which this empties, or the first so many."""
    count = peer.count(queue)[0] if count is None else count
    return [payload.decode(peer.take(queue)[1])["number"] for _ in range(count)]
