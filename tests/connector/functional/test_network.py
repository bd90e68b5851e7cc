"""What networks do to a connection, under load: nothing is lost, and the consumer comes back."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mq_connector import ConsumerThread, MQConnector, health
from mq_connector import consumer as consumer_module
from mq_connector.health import HealthServer

from .broker import Broker
from .conftest import Consume, Record, echo
from .load import Load, Watch
from .peer import Peer, eventually
from .proxy import Proxy

#: Seconds until messages are consumed again.
BOUND = 2.0
#: With a heartbeat of 1 s pika gives a silent peer up after 6 s, and looks every few seconds.
SILENT_BOUND = 12.0
#: Seconds within which the health check must notice the beginning and the end of a fault.
NOTICED = 2.0


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """A proxy before the broker: for the consumer, not for who puts it under load."""
    with Proxy(broker.port) as proxy:
        yield proxy


def start(
    proxy: Proxy,
    broker: Broker,
    queue: str,
    consume: Consume,
    pause: float = 0.002,
    **options: Any,
) -> tuple[Load, Any]:
    """A consumer behind the proxy, and the load for it."""
    load = Load(broker, queue, pause)
    where = broker.parameters(port=proxy.port, **options)
    return load, consume(load.handle, at=where, workers=4, prefetch=50, queue_type="quorum")


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_connection_that_ends(
    proxy: Proxy, broker: Broker, queue: str, consume: Consume, record: Record, reset: bool
) -> None:
    load, consumer = start(proxy, broker, queue, consume)
    with load, Watch(lambda: consumer.is_consuming, every=0.001) as consuming:
        time.sleep(0.2)
        for _ in range(3):
            began = time.monotonic()
            proxy.end(reset)
            gone = consuming.first(False, began, 1.0)
            recovery = consuming.first(True, began + gone, BOUND)
            time.sleep(0.1)
    name = f"connection ended ({'RST' if reset else 'FIN'}), 3 times"
    record(name, bound=BOUND, recovery=round(recovery, 3), **load.check())


@pytest.fixture
def healthy(
    queue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[ConsumerThread], Watch]]:
    """Watch a consumer with the health check, as a service's container is."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    service = MQConnector(config={}, service_name="functional")
    server = HealthServer("functional", service.look)

    def watch(consumer: ConsumerThread) -> Watch:
        service.consumers = {queue: consumer}
        return Watch(lambda: health.check("functional")[0], every=0.05)

    yield watch
    server.close()


def test_a_half_open_connection(
    proxy: Proxy,
    broker: Broker,
    queue: str,
    consume: Consume,
    record: Record,
    healthy: Callable[[ConsumerThread], Watch],
) -> None:
    load, consumer = start(proxy, broker, queue, consume, pause=0.03, heartbeat=1)
    with load, Watch(lambda: consumer.is_consuming) as consuming, healthy(consumer) as well:
        time.sleep(0.2)
        began = time.monotonic()
        proxy.halt()
        # Long before the heartbeat: the check asks the broker, who doesn't answer.
        no = well.first(False, began, NOTICED)
        gone = consuming.first(False, began, SILENT_BOUND)
        recovery = consuming.first(True, began + gone, SILENT_BOUND)
        back = began + gone + recovery
        yes = well.first(True, back, NOTICED)
    record(
        "half-open, heartbeat 1 s",
        bound=SILENT_BOUND,
        recovery=round(back - began, 3),
        health_false=round(no, 3),
        health_true=round(yes, 3),
        **load.check(),
    )


def test_a_slow_link(
    proxy: Proxy, broker: Broker, queue: str, consume: Consume, record: Record
) -> None:
    """Seven bytes at a time: every frame arrives in pieces."""
    load, consumer = start(proxy, broker, queue, consume)
    proxy.slow = (7, 0.0005)
    with load:
        time.sleep(1)
        assert consumer.is_consuming
    proxy.slow = None
    record("slow link, 7 bytes at a time", **load.check())


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_connection_cut_after_any_number_of_bytes(
    proxy: Proxy, broker: Broker, queue: str, consume: Consume, record: Record, direction: str
) -> None:
    """From the first byte of the handshake to the middle of a delivery, or of an ack."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    load, consumer = start(proxy, broker, queue, consume)
    with load:
        for _ in range(12):
            setattr(proxy, f"cut_{direction}_after", rng.randrange(1, rng.choice((600, 6000))))
            cuts = proxy.cuts
            proxy.end(reset=True)
            eventually(lambda: proxy.cuts > cuts, 10, f"a cut (seed {seed})")  # noqa: B023
        setattr(proxy, f"cut_{direction}_after", None)
        over = time.monotonic()
        with Watch(lambda: consumer.is_consuming):
            recovery = time.monotonic() - over
    assert consumer.failure is None, f"seed {seed}"
    assert recovery <= BOUND, f"seed {seed}"
    name = f"cut after N bytes {direction}stream, 12 times"
    record(name, bound=BOUND, recovery=round(recovery, 3), **load.check())


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + end


DELIVER = b"\x00\x3c\x00\x3c"
MALFORMED = [
    pytest.param(b"\x00" * 64, id="zeros"),
    pytest.param(b"\xff" * 64, id="ones"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="HTTP"),
    pytest.param(frame(9, 0, b"abc"), id="unknown type"),
    pytest.param(struct.pack(">BHL", 3, 1, 2**32 - 1), id="4 GB of body"),
    pytest.param(frame(1, 1, DELIVER, b"\x00"), id="no frame end"),
    pytest.param(frame(1, 1, b"\x00"), id="method cut short"),
    pytest.param(frame(1, 1, DELIVER), id="delivery cut short"),
    pytest.param(frame(1, 1, DELIVER + b"\xffshort"), id="consumer tag cut short"),
    pytest.param(
        frame(1, 1, DELIVER + b"\x02\xff\xfe" + b"\x00" * 7 + b"\x63\x00\x00\x00"),
        id="consumer tag that is no UTF-8",
    ),
    pytest.param(frame(1, 1, b"\x12\x34\x56\x78"), id="unknown method"),
    pytest.param(frame(1, 77, b"\x00\x3c\x00\x50" + b"\x00" * 9), id="unknown channel"),
    pytest.param(frame(2, 1, b"\x00\x3c"), id="header without a delivery"),
    pytest.param(frame(3, 1, b"abc"), id="body without a delivery"),
    pytest.param(
        frame(1, 1, DELIVER + b"\x01c" + struct.pack(">Q", 99) + b"\x00\x00\x00")
        + frame(3, 1, b"x"),
        id="body without a header",
    ),
    pytest.param(
        frame(1, 1, DELIVER + b"\x01c" + struct.pack(">Q", 99) + b"\x00\x00\x00")
        + frame(2, 1, b"\x00\x3c"),
        id="header cut short",
    ),
]


@pytest.mark.parametrize("words", MALFORMED)
def test_malformed_frames_cost_a_connection_and_nothing_else(
    proxy: Proxy, broker: Broker, peer: Peer, queue: str, consume: Consume, words: bytes
) -> None:
    consumer = consume(echo, at=broker.parameters(port=proxy.port))
    with Watch(lambda: consumer.is_consuming, every=0.001) as consuming:
        began = time.monotonic()
        proxy.inject(words)
        time.sleep(0.05)
        proxy.inject(b"\xce" * 16)  # whatever has been begun becomes wrong
        gone = consuming.first(False, began, 2.0)
        consuming.first(True, began + gone, BOUND)
    assert "echo" in peer.ask(queue, within=BOUND)


def test_a_broker_that_never_answers_is_given_up_and_tried_again(
    proxy: Proxy,
    broker: Broker,
    peer: Peer,
    queue: str,
    consume: Consume,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Heartbeats arrive, but never the answer to ``basic.consume``."""
    monkeypatch.setattr(consumer_module, "_PATIENCE", 0.5)
    proxy.swallowed = {(60, 21)}
    consumer = consume(echo, at=broker.parameters(port=proxy.port), within=0)
    time.sleep(0.4)
    assert not consumer.is_consuming
    proxy.swallowed = set()
    eventually(lambda: consumer.is_consuming, 3.0)
    assert "echo" in peer.ask(queue)
