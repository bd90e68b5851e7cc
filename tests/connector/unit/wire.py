"""What a broker or client sends, marshalled and taken apart by pika itself."""

from __future__ import annotations

from typing import Any

import pika
from pika import frame, spec

#: The largest frame that pika and RabbitMQ agree on by default, in bytes.
FRAME_MAX = 131072


def method(channel: int, what: Any) -> bytes:
    """One method frame."""
    return frame.Method(channel, what).marshal()


def content(
    channel: int,
    body: bytes,
    properties: pika.BasicProperties | None = None,
    frame_max: int = FRAME_MAX,
) -> list[bytes]:
    """A content header and its body frames."""
    limit = frame_max - 8
    header = frame.Header(channel, len(body), properties or pika.BasicProperties()).marshal()
    pieces = [body[start : start + limit] for start in range(0, len(body), limit)]
    return [header, *(frame.Body(channel, piece).marshal() for piece in pieces)]


def delivery(
    channel: int,
    tag: int,
    body: bytes,
    properties: pika.BasicProperties | None = None,
    *,
    consumer_tag: str = "ctag1.0",
    redelivered: bool = False,
    exchange: str = "",
    routing_key: str = "input",
    frame_max: int = FRAME_MAX,
) -> list[bytes]:
    """The frames of one ``basic.deliver``."""
    deliver = spec.Basic.Deliver(consumer_tag, tag, redelivered, exchange, routing_key)
    return [method(channel, deliver), *content(channel, body, properties, frame_max)]


def decoded(data: bytes) -> list[Any]:
    """All frames in ``data``, which must end with a whole one."""
    frames = []
    while data:
        size, each = frame.decode_frame(data)
        assert each is not None, f"{len(data)} bytes are left that are no whole frame"
        frames.append(each)
        data = data[size:]
    return frames
