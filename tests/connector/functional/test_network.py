"""What networks do to a connection, under load: nothing is lost, and the consumer comes back."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from mq_connector.consumer import consumption
from waiting import eventually

from .broker import Broker
from .conftest import Consume, Record, echo
from .peer import Peer
from .proxy import Proxy
from .served import BOUND, NOTICED, Served, blink, shrug

#: With a heartbeat of 1 s pika gives a silent peer up after 6 s, and looks every few seconds.
SILENT_BOUND = 12.0


@pytest.fixture
def proxy(victim: Broker) -> Iterator[Proxy]:
    """A proxy before the broker: for the consumer, not for who puts it under load."""
    with Proxy(victim.port) as proxy:
        yield proxy


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_connection_that_ends(
    proxy: Proxy, served: Callable[..., Served], record: Record, reset: bool
) -> None:
    name = f"connection ended ({'RST' if reset else 'FIN'}), 3 times"
    blink(name, served(port=proxy.port), record, lambda: proxy.end(reset), times=3)


def test_a_half_open_connection(
    proxy: Proxy, served: Callable[..., Served], record: Record
) -> None:
    one = served(port=proxy.port, pause=0.03, heartbeat=1)
    with one.watched():
        began = time.monotonic()
        proxy.halt()
        # Long before the heartbeat: the check asks the broker, who doesn't answer.
        no = one.health.first(False, began, NOTICED)
        gone = one.consuming.first(False, began, SILENT_BOUND)
        recovery = one.consuming.first(True, began + gone, SILENT_BOUND)
        back = began + gone + recovery
        yes = one.health.first(True, back, NOTICED)
        proxy.bury()
    record(
        "half-open, heartbeat 1 s",
        bound=SILENT_BOUND,
        recovery=round(back - began, 3),
        health_false=round(no, 3),
        health_true=round(yes, 3),
        **one.load.check(),
    )


def test_a_slow_link(proxy: Proxy, served: Callable[..., Served], record: Record) -> None:
    """Seven bytes at a time: every frame arrives in pieces."""

    def cause() -> None:
        proxy.slow = (7, 0.0005)
        time.sleep(1)
        proxy.slow = None

    shrug("slow link, 7 bytes at a time", served(port=proxy.port), record, cause)


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_connection_cut_after_any_number_of_bytes(
    proxy: Proxy, served: Callable[..., Served], record: Record, direction: str
) -> None:
    """From the first byte of the handshake to the middle of a delivery, or of an ack."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    one = served(port=proxy.port)
    with one.watched():
        for _ in range(12):
            setattr(proxy, f"cut_{direction}_after", rng.randrange(1, rng.choice((600, 6000))))
            cuts = proxy.cuts
            proxy.end(reset=True)
            eventually(lambda: proxy.cuts > cuts, what=f"a cut (seed {seed})")  # noqa: B023
        setattr(proxy, f"cut_{direction}_after", None)
        over = time.monotonic()
        eventually(lambda: one.consumer.is_consuming, BOUND, f"it consumes (seed {seed})")
        recovery = time.monotonic() - over
        healthy = one.yes_again(over)
    assert one.consumer.failure is None, f"seed {seed}"
    record(
        f"cut after N bytes {direction}stream, 12 times",
        bound=BOUND,
        recovery=round(recovery, 3),
        health_true=round(healthy, 3),
        **one.load.check(),
    )


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + end


DELIVER = b"\x00\x3c\x00\x3c"
MALFORMED = {
    "zeros": b"\x00" * 64,
    "ones": b"\xff" * 64,
    "HTTP": b"HTTP/1.1 200 OK\r\n\r\n",
    "unknown type": frame(9, 0, b"abc"),
    "4 GB of body": struct.pack(">BHL", 3, 1, 2**32 - 1),
    "no frame end": frame(1, 1, DELIVER, b"\x00"),
    "method cut short": frame(1, 1, b"\x00"),
    "delivery cut short": frame(1, 1, DELIVER),
    "consumer tag cut short": frame(1, 1, DELIVER + b"\xffshort"),
    "consumer tag that is no UTF-8": frame(
        1, 1, DELIVER + b"\x02\xff\xfe" + b"\x00" * 7 + b"\x63\x00\x00\x00"
    ),
    "unknown method": frame(1, 1, b"\x12\x34\x56\x78"),
    "unknown channel": frame(1, 77, b"\x00\x3c\x00\x50" + b"\x00" * 9),
    "header without a delivery": frame(2, 1, b"\x00\x3c"),
    "body without a delivery": frame(3, 1, b"abc"),
    "body without a header": frame(
        1, 1, DELIVER + b"\x01c" + struct.pack(">Q", 99) + b"\x00\x00\x00"
    )
    + frame(3, 1, b"x"),
    "header cut short": frame(1, 1, DELIVER + b"\x01c" + struct.pack(">Q", 99) + b"\x00\x00\x00")
    + frame(2, 1, b"\x00\x3c"),
}


def test_malformed_frames_cost_a_connection_and_nothing_else(
    proxy: Proxy, served: Callable[..., Served], record: Record
) -> None:
    kinds = iter(MALFORMED.values())

    one = served(port=proxy.port)

    def cause() -> None:
        with one.load.held_up():  # so that they don't come in the middle of another frame
            proxy.inject(next(kinds))
            time.sleep(0.05)
            proxy.inject(b"\xce" * 16)  # whatever has been begun becomes wrong

    name = f"malformed frames, {len(MALFORMED)} kinds"
    blink(name, one, record, cause, times=len(MALFORMED))


def test_a_broker_that_never_answers_is_given_up_and_tried_again(
    proxy: Proxy,
    victim: Broker,
    consume: Consume,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Heartbeats arrive, but never the answer to ``basic.consume``."""
    monkeypatch.setattr(consumption, "PATIENCE", 0.5)
    proxy.swallowed = {(60, 21)}
    consumer = consume(echo, at=victim.parameters(port=proxy.port), within=0)
    time.sleep(0.4)
    assert not consumer.is_consuming
    proxy.swallowed = set()
    eventually(lambda: consumer.is_consuming)
    peer = Peer(victim.parameters())
    assert "echo" in peer.ask(consumer.queue)
    peer.close()
