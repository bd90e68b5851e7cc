"""RabbitMQ 4.0 and 4.3: what `test_refused_publishes` shows, and a reply that is larger than they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mq_connector import Channel

from .conftest import Consume
from .newer import Newer, sharing
from .peer import Peer
from .test_refused_publishes import KINDS, Blast, costs_one

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]


def large_reply(channel: Channel) -> None:
    """406 from 16 MiB on, if nothing else is set."""
    channel.basic_publish("", "nosuch", b"x" * 17_000_000)


NEWER = {**KINDS, "large reply": (large_reply, "16777216")}


@pytest.fixture(scope="module", params=sharing("4.0", "4.3"))
def broker(request: pytest.FixtureRequest, newer: Callable[[str], Newer]) -> Newer:
    """One container of each generation, in the place of the broker that is installed."""
    return newer(request.param)


@pytest.mark.parametrize("queue_type", ["quorum", "legacy"])
@pytest.mark.parametrize("kind", NEWER)
def test_a_refused_publish_costs_its_own_message(
    peer: Peer, queue: str, consume: Consume, kind: str, queue_type: str
) -> None:
    provoke, words = NEWER[kind]
    options: Any = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    peer.declare(queue, **(options if queue_type == "quorum" else {}))
    costs_one(Blast(peer, queue), provoke, words, consume, queue_type=queue_type)
