"""What looks like a death and is none: lost connections and restarts of the broker cost no innocent message."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from baked import BakedProject
from conformance import generations
from mq_connector import Channel, payload
from waiting import eventually

from .broker import DEAD_LETTERS, PASSWORD, SERVICE_VHOST, VHOST, Broker
from .conftest import Consume, Record, echo
from .peer import Peer, first_login
from .process import QUEUE, Service
from .proxy import Proxy
from .test_deaths import edit

pytestmark = pytest.mark.timeout(300)

#: How often the connection is lost while the same message is in hand: cut, closed by force, with the broker.
CUT, FORCED, RESTARTS = 16, 2, 2
LOSSES = CUT + FORCED + RESTARTS
QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture(scope="module")
def broker(default_project: BakedProject) -> Iterator[Broker]:
    """A broker that limits how often a message may come again as the generated repository does."""
    policies = json.loads(default_project.read("rabbitmq/definitions.json"))["policies"]
    [limit] = [
        policy["definition"]["delivery-limit"]
        for policy in policies
        if policy["name"].endswith(" quorum")
    ]
    limited = {
        "vhost": VHOST,
        "name": "limited",
        "pattern": r"^input\.[^.]+\.quorum$",
        "apply-to": "queues",
        "priority": 9,
        "definition": {"dead-letter-exchange": DEAD_LETTERS, "delivery-limit": limit},
    }
    with generations.running(generations.INSTALLED, [], [limited]) as node:
        assert isinstance(node, Broker)
        yield node


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_an_innocent_message_survives_twenty_lost_connections_and_restarts_of_the_broker(
    broker: Broker, queue: str, consume: Consume, kind: str, record: Record
) -> None:
    """Its callback takes longer than any connection lives; both queues are durable."""
    queue = f"{queue}.{kind}"
    begun, enough = threading.Semaphore(0), threading.Event()
    calls: list[bool] = []

    def long(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        calls.append(method.redelivered)
        begun.release()
        eventually(lambda: enough.is_set() or channel.is_closed, 60, "the connection is lost")
        echo(channel, method, properties, body)

    with Proxy(broker.port) as proxy:

        def restart() -> None:
            broker.stop()
            broker.start()

        def force() -> None:
            broker.ctl("close_all_connections", "--vhost", VHOST, "the test says so")

        def cut() -> None:
            proxy.end(reset=True)

        steps: list[Callable[[], None]] = [*[cut] * CUT, *[force] * FORCED, *[restart] * RESTARTS]
        peer = Peer(broker.parameters())
        peer.declare(queue, durable=True, arguments=QUORUM if kind == "quorum" else {})
        dead = peer.declare_dead(queue)
        replies = peer.declare(f"{queue}.replies", durable=True)
        consume(long, at=broker.parameters(port=proxy.port), queue=queue, prefetch=0)
        peer.publish(queue, {"message_id": "1", "routing_key": replies}, delivery_mode=2)
        peer.close()
        began = time.monotonic()
        for number, step in enumerate(steps):
            assert begun.acquire(timeout=30), f"it isn't delivered for the {number + 1}th time"
            step()
        assert begun.acquire(timeout=30), "it isn't delivered again after the last"
        took = time.monotonic() - began
        enough.set()
        first_login(broker)
        peer = Peer(broker.parameters())
        assert peer.reply(replies, 10)["message_id"] == "1"
        peer.rests_at(queue, 0, consumers=1)
        peer.rests_at(dead, 0)
        assert calls == [False, *[True] * LOSSES]
        again = peer.count(replies)[0]
        peer.channel.queue_delete(replies)
        peer.close()
    record(
        f"handler: outlives {LOSSES} connections, {kind} queue",
        bound=120.0,
        recovery=round(took, 2),
        sent=1,
        confirmed=1,
        processed=1,
        duplicated=again,
        lost=0,
        times=LOSSES,
        dead_letters=0,
    )


def test_a_classic_queue_cannot_tell_who_kills_and_what_stands_behind_waits(
    broker: Broker, project: BakedProject, tmp_path: Path
) -> None:
    """Nothing there tells a message that came back three times from one that came back once. Who takes it out of
    the queue while the service is stopped has the others answered."""
    edit(project, "import os; request.get('die') and os._exit(139)")
    service = Service(project, tmp_path, broker.port, PASSWORD)
    peer = Peer(broker.parameters(SERVICE_VHOST))
    peer.declare(QUEUE)
    replies = peer.declare("", exclusive=True)
    for number in range(3):
        peer.publish(QUEUE, {"message_id": str(number), "routing_key": replies, "die": number == 1})
    answered: set[str] = set()

    def take() -> set[str]:
        """Replies don't wait for long."""
        _, _, body = peer.channel.basic_get(replies, auto_ack=True)
        if body is not None:
            answered.add(payload.decode(body)["message_id"])
        return answered

    try:
        for _ in range(5):
            process = service.start(healthy=False, MQ_QUEUE_TYPE="legacy")
            while process.poll() is None:
                take()
            assert process.returncode == 139, service.said
        assert answered == {"0"}
        peer.rests_at(f"{QUEUE}.dead", 0)
        peer.rests_at(QUEUE, 2, consumers=0)
        assert payload.decode(peer.take(QUEUE)[1])["message_id"] == "1", "it is still the first"
        service.start(healthy=False, MQ_QUEUE_TYPE="legacy")
        eventually(lambda: "2" in take())
    finally:
        service.end()
        peer.close()
