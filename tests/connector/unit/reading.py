"""Messages on the wire, and a reader that is given them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pika
import pytest
from hypothesis import strategies as st
from mq_connector.connection.wire import deliveries
from mq_connector.connection.wire.deliveries import DeliveryReader
from pika import spec

from . import wire

OURS, OTHER = 1, 2


@pytest.fixture(autouse=True)
def no_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock stands still, so that the reader adds no heartbeats of its own."""
    now = [0.0]
    monkeypatch.setattr(f"{deliveries.__name__}.time.monotonic", lambda: now[0])
    yield now


@dataclass
class Message:
    """A delivery to be sent, and what must come of it."""

    body: bytes
    properties: pika.BasicProperties = field(default_factory=pika.BasicProperties)
    redelivered: bool = False
    exchange: str = ""
    routing_key: str = "input"
    consumer_tag: str = "ctag1.0"


class Sink:
    """Collects what is delivered on one channel."""

    def __init__(self) -> None:
        self.delivered: list[tuple[Any, Any, bytes]] = []
        self.closed = 0

    def deliver(self, method: Any, properties: Any, body: bytes) -> None:
        self.delivered.append((method, properties, body))

    def closing(self) -> None:
        self.closed += 1


def frames_of(tag: int, message: Message, frame_max: int = wire.FRAME_MAX) -> list[bytes]:
    return wire.delivery(
        OURS,
        tag,
        message.body,
        message.properties,
        consumer_tag=message.consumer_tag,
        redelivered=message.redelivered,
        exchange=message.exchange,
        routing_key=message.routing_key,
        frame_max=frame_max,
    )


def assert_delivered(sink: Sink, messages: Sequence[Message]) -> None:
    assert len(sink.delivered) == len(messages)
    for tag, ((method, properties, body), message) in enumerate(
        zip(sink.delivered, messages, strict=True), 1
    ):
        assert type(method) is spec.Basic.Deliver
        expected = spec.Basic.Deliver(
            message.consumer_tag, tag, message.redelivered, message.exchange, message.routing_key
        )
        assert method == expected
        assert properties == message.properties
        assert type(body) is bytes
        assert body == message.body


names = st.text(max_size=30)


messages = st.builds(
    Message,
    body=st.binary(max_size=400),
    properties=st.builds(
        pika.BasicProperties,
        headers=st.none() | st.dictionaries(names, st.integers(0, 99), max_size=3),
        expiration=st.none() | st.just("1000"),
        reply_to=st.none() | names,
    ),
    redelivered=st.booleans(),
    exchange=names,
    routing_key=names,
    consumer_tag=st.sampled_from(["ctag1.0", "ctag1.1", "zähler"]),
)


def fed(*frames: bytes) -> tuple[list[bytes], Sink]:
    forwarded: list[bytes] = []
    sink = Sink()
    reader = DeliveryReader(forwarded.append)
    reader.attach(OURS, sink)
    reader.feed(b"".join(frames))
    return forwarded, sink
