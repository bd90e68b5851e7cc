"""What the reader refuses or leaves to pika: frames and messages that are malformed or cut short."""

from __future__ import annotations

import struct
from typing import Any

import pika
import pytest
from mq_connector.connection.wire.deliveries import DeliveryReader
from pika import spec
from pika.exceptions import InvalidFrameError

from . import wire
from .reading import OTHER, OURS, Message, Sink, assert_delivered, fed, frames_of, no_signs_of_life

__all__ = ["no_signs_of_life"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="http"),
        pytest.param(b"AMQP\x00\x01\x00\x00", id="another AMQP"),
        pytest.param(b"\x00" * 8, id="zeros"),
        pytest.param(struct.pack(">BHL", 4, OURS, 0) + b"\xce", id="unknown frame type"),
        pytest.param(struct.pack(">BHL", 3, OURS, 131073) + b"\xce", id="oversized frame"),
        pytest.param(struct.pack(">BHL", 2, OURS, 2**21 + 1) + b"\xce", id="oversized header"),
        pytest.param(struct.pack(">BHL", 3, OURS, 2**32 - 1) + b"\xce", id="four gigabytes"),
    ],
)
def test_what_is_no_frame_is_refused_before_it_is_waited_for(data: bytes) -> None:
    with pytest.raises(InvalidFrameError, match=r"^frame of type \d+ with \d+ bytes"):
        fed(data)


@pytest.mark.parametrize("data", [b"\x15\x03\x01\x00\x02\x02\x0a", b"H"])
def test_what_can_be_no_frame_is_refused_though_it_is_shorter_than_one(data: bytes) -> None:
    """A TLS port says seven bytes to who speaks plainly, and waits."""
    with pytest.raises(InvalidFrameError, match="no AMQP frame"):
        fed(data)


def test_whole_messages_before_a_malformed_frame_are_delivered() -> None:
    sink = Sink()
    reader = DeliveryReader(lambda _: None)
    reader.attach(OURS, sink)
    with pytest.raises(InvalidFrameError):
        reader.feed(b"".join(frames_of(1, Message(b"first"))) + b"garbage!")
    assert_delivered(sink, [Message(b"first")])


def test_a_frame_without_its_end_octet_is_left_for_pika_to_refuse() -> None:
    pieces = frames_of(1, Message(b"body"))
    pieces[0] = pieces[0][:-1] + b"\x00"
    forwarded, sink = fed(pieces[0])
    assert forwarded == [pieces[0]]
    assert not sink.delivered


def test_a_body_before_its_header_is_refused() -> None:
    method, _, body = frames_of(1, Message(b"body"))
    with pytest.raises(InvalidFrameError, match="header"):
        fed(method, body)


def test_a_body_longer_than_its_header_says_is_refused() -> None:
    method, header, body = frames_of(1, Message(b"body"))
    with pytest.raises(InvalidFrameError, match="bytes too many"):
        fed(method, header, body.replace(b"\x04body", b"\x05bodyx"))


def test_a_delivery_cut_short_within_its_frame_is_refused() -> None:
    broken = struct.pack(">BHL", 1, OURS, 6) + b"\x00\x3c\x00\x3c\x03c" + b"\xce"
    with pytest.raises(Exception, match=r"buffer|index"):
        fed(broken)


def test_malformed_properties_cost_only_the_message_that_has_them() -> None:
    """As a handler that looks at them raises, the message is dead-lettered."""
    method, _, body = frames_of(1, Message(b"body"))
    raw = b"\x20\x00\x00"  # headers, whose size has four bytes
    header = struct.pack(">BHLHHQ", 2, OURS, 12 + len(raw), 60, 0, 4) + raw + b"\xce"
    _, sink = fed(method, header, body)
    properties = sink.delivered[0][1]
    for _ in range(2):
        with pytest.raises(struct.error):
            _ = properties.reply_to


@pytest.mark.parametrize("more", [{}, {"content_type": "a/b"}, {"content_encoding": "utf-8"}])
@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"\x01tT" + b"\xff" * 8, id="a time beyond the year 9999"),
        pytest.param(b"\x01n?" + b"\x00" * 8, id="a type that there isn't"),
    ],
)
def test_pika_gets_a_content_header_without_the_headers_that_it_cannot_read(
    more: dict[str, str], odd: bytes
) -> None:
    """On a channel without a sink, or of what comes back: the connection would be lost by them."""
    others: dict[str, Any] = {
        **more,
        "delivery_mode": 2,
        "message_id": "mine",
        "timestamp": 2**64 - 1,
    }
    headers = {"h": "0" * (len(odd) - 7)}
    data = b"".join(wire.content(OTHER, b"body", pika.BasicProperties(headers=headers, **others)))
    plain = b"".join(pika.BasicProperties(headers=headers).encode())[2:]
    assert plain in data
    data = data.replace(plain, struct.pack(">L", len(odd)) + odd)
    before, behind = wire.method(OTHER, spec.Basic.Qos()), wire.method(OTHER, spec.Basic.QosOk())
    forwarded, _ = fed(before, data, behind)
    expected = wire.content(OTHER, b"body", pika.BasicProperties(**others))
    assert b"".join(forwarded) == b"".join([before, *expected, behind])
