"""One broker for most tests, consumers that end with their test, and a book of recoveries."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import results
from baked import TEMPLATE
from groups import shared
from local import NoServer
from mq_connector import ConsumerThread
from mq_connector.config import Limits
from mq_connector.consumer import Channel
from mq_connector.health import HealthServer
from mq_connector.payload.request import Request
from waiting import eventually

from .broker import SERVICE_QUEUE, SERVICE_VHOST, Broker
from .newer import Newer, Sharing
from .peer import Peer
from .served import Served

Consume = Callable[..., ConsumerThread]
Record = Callable[..., None]

#: Where the measured recoveries go; git-ignored.
RECOVERIES = TEMPLATE / ".cache" / "recoveries.json"


#: Modules whose measuring tests go to one process; those of the others go to another.
_FIRST_HALF = ("test_handlers_under_load", "test_network", "test_process", "test_process_start")


@pytest.fixture(autouse=True)
def quiet_pika() -> None:
    """What pika has to say of a lost connection, the connector says in one line of its own.

    For each test, as other tests of the process leave the level as they want it.
    """
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def pytest_configure(config: pytest.Config) -> None:
    """Tests that take minutes run only when asked for: `-m soak`."""
    config.addinivalue_line("markers", "soak: takes minutes; only run with `-m soak`")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Every test of this folder needs a broker; what is measured is measured one at a time, or two.

    So is what harms a broker, for which each process would start one more, at five seconds of processor time.
    """
    item.add_marker(pytest.mark.broker)
    if {"record", "victim"} & {*getattr(item, "fixturenames", ())} and not list(shared(item)):
        number = 1 if item.path.stem in _FIRST_HALF else 2
        item.add_marker(pytest.mark.xdist_group(f"measured-{number}"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless asked."""
    if "soak" not in config.option.markexpr:
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


def _run_broker() -> Iterator[Broker]:
    try:
        broker = Broker()
    except NoServer as error:
        pytest.skip(str(error))
    with broker:
        yield broker


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A broker that nobody may harm."""
    yield from _run_broker()


@pytest.fixture(scope="session")
def victim() -> Iterator[Broker]:
    """A broker that may be killed, frozen and filled; whoever does leaves it running."""
    yield from _run_broker()


@pytest.fixture(scope="session")
def newer() -> Iterator[Callable[[str], Newer]]:
    """A broker of a later generation, by its name, that nobody may harm."""
    with Sharing() as running:
        yield running.at


@pytest.fixture
def peer(broker: Broker) -> Iterator[Peer]:
    """A client of the broker."""
    peer = Peer(broker.parameters())
    yield peer
    peer.close()


@pytest.fixture
def asking(broker: Broker) -> Iterator[Peer]:
    """A plain client of a service that runs as a process, and whose queues are empty at first.

    A service that was killed may have answered what it hadn't acknowledged yet. That comes again, and
    would be a message of the next test's.
    """
    peer = Peer(broker.parameters(SERVICE_VHOST))
    for name in (SERVICE_QUEUE, f"{SERVICE_QUEUE}.dead"):
        if peer.has(name):
            eventually(lambda: peer.count(name)[1] == 0, what="the last service is gone")  # noqa: B023
            peer.channel.queue_purge(name)
    yield peer
    peer.close()


@pytest.fixture
def queue() -> str:
    """A name for an input queue; its policy sends dead letters to `DEAD_LETTERS`."""
    return f"input.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def consume(broker: Broker, queue: str) -> Iterator[Consume]:
    """Start a consumer, and wait until it consumes; all end with the test."""
    started: list[ConsumerThread] = []

    def start(
        callback: Any,
        at: Any = None,
        workers: int = 1,
        prefetch: int | None = 200,
        queue_type: str = "auto",
        within: float | None = None,
        **options: Any,
    ) -> ConsumerThread:
        limits = Limits(workers=workers, prefetch=prefetch, queue_type=queue_type)
        where = broker.parameters() if at is None else at
        consumer = ConsumerThread(
            where, options.pop("queue", queue), callback, limits=limits, **options
        )
        started.append(consumer)
        consumer.start()
        if within != 0:
            eventually(lambda: consumer.is_consuming, within, "the consumer consumes")
        return consumer

    yield start
    for consumer in started:
        consumer.stop(1.0)
    for consumer in started:
        if consumer.ident is not None:
            consumer.join(60)
    assert not [consumer for consumer in started if consumer.is_alive()]


@pytest.fixture
def served(
    victim: Broker, queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Served]]:
    """Start a consumer that will be under load; it must end in good order, too."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    running: list[tuple[Served, HealthServer]] = []

    def start(**options: Any) -> Served:
        one = Served(victim, queue, **options)
        running.append((one, HealthServer("functional", one.service.look)))
        one.service.run()
        eventually(lambda: one.consumer.is_consuming)
        return one

    yield start
    for one, server in running:
        server.close()
        one.service.stop(3)
        assert not one.consumer.is_alive()


def echo(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
    """What a generated service does before anybody edits it."""
    request = Request.decode(body, properties)
    if request.reply_queue:
        reply = request.encode_reply({"echo": request.data})
        channel.basic_publish("", request.reply_queue, reply, request.reply_properties)


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """Note a measured recovery: `record("kill -9", recovery=0.4, sent=…, lost=0)`.

    What is measured beside other tests keeps within its bound, too, but is nothing to publish: the book
    gets what one process measures (`make test WORKERS=0`).
    """
    rows: list[dict[str, Any]] = []
    lock = threading.Lock()

    def note(fault: str, **figures: Any) -> None:
        with lock:
            rows.append({"fault": fault, **figures})

    yield note
    if rows and "PYTEST_XDIST_WORKER" not in os.environ:
        # Some are measured by `make test` and some by `make soak`: each leaves the others' alone.
        def merge(known: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return list({row["fault"]: row for row in [*known, *rows]}.values())

        results.update(RECOVERIES, merge, [])
