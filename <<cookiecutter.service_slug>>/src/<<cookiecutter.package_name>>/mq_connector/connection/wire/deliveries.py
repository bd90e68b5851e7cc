"""Reads deliveries straight from the stream; every other frame goes on to pika.

A delivery is three frames (method, content header, body) that pika takes apart into some twenty
objects. Here they become the three objects of pika's callback signature and nothing else. The
reader sits between our transport and pika's protocol, so it touches none of pika's internals.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

import pika
from pika.exceptions import InvalidFrameError
from pika.spec import FRAME_MAX_SIZE, Basic

from .frames import BODY, END, HEADER, HEARTBEAT, HEARTBEAT_FRAME, METHOD, OVERHEAD, is_large_header
from .odd_headers import has_odd_headers, without_headers

_BASIC_DELIVER = b"\x00\x3c\x00\x3c"
_BASIC_GET_OK = b"\x00\x3c\x00\x47"
_CHANNEL_CLOSE = b"\x00\x14\x00\x28"
_TYPES = frozenset((METHOD, HEADER, BODY, HEARTBEAT))
#: pika counts what it reads to notice a dead peer. While deliveries bypass it, it is given a heartbeat after so many
#: seconds: well below the shortest time-out that it can have (6 s).
_SIGN_OF_LIFE = 1.0

_unpack_prefix = struct.Struct(">BHL").unpack_from
_unpack_delivery = struct.Struct(">Q?").unpack_from
_ALL = 0xFFFF
#: In the second of the two bytes of flags.
_HAS_TIMESTAMP = pika.BasicProperties.FLAG_TIMESTAMP
_unpack_size = struct.Struct(">Q").unpack_from
#: From the beginning of a frame to the body's size in it, which is the content of a content header.
_unpack_header = struct.Struct(">BHLLQ").unpack_from
_unpack_count = struct.Struct(">L").unpack_from


class Properties(pika.BasicProperties):
    """Properties that are decoded when one of them is first read, which most handlers never do."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        # Only reached while the attribute doesn't exist yet.
        values = self._decoded()
        if name not in values:
            raise AttributeError(f"properties have no {name!r}")
        return values[name]

    @property
    def flags(self) -> int:
        """Which properties there are (AMQP 0-9-1, 4.2.6.1), as pika's ``FLAG_…``, without decoding them.

        All of them once they are decoded, as they can be set from then on.
        """
        try:
            raw = self._raw
            return raw[0] << 8 | raw[1]
        except (AttributeError, IndexError):
            return _ALL

    def may_hold(self, name: bytes) -> bool:
        """Whether there may be a header of this name: False is certain, and needs no decoding."""
        raw = self.__dict__.get("_raw")
        return raw is None or name in raw

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, pika.BasicProperties):
            return NotImplemented
        theirs = other._decoded() if isinstance(other, Properties) else vars(other)
        return self._decoded() == theirs

    __hash__ = None  # type: ignore[assignment]  # as pika's own properties

    def __repr__(self) -> str:
        self._decoded()
        return super().__repr__()

    def _decoded(self) -> dict[str, Any]:
        """The attributes, decoded if they weren't; what was set before stays, also if two threads decode at once."""
        values = self.__dict__
        raw = values.get("_raw")
        if raw is not None:
            properties = pika.BasicProperties()
            properties.decode(raw)
            for key, value in vars(properties).items():
                values.setdefault(key, value)
            values.pop("_raw", None)
        return values


class Timed(Properties):
    """Properties with a timestamp, by which alone a message can be found to have expired."""


class Sink(Protocol):
    """Takes what arrives on one channel."""

    def deliver(self, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        """A whole message; called on the loop, must not block.

        One that was asked for by ``basic.get`` comes with a `Basic.GetOk` instead.
        """

    def closing(self) -> None:
        """The broker closes the channel: nothing may be sent on it any more."""


class _Delivery:
    """What has been read so far of the message that is arriving on a channel."""

    __slots__ = (
        "address",
        "around_tag",
        "channel",
        "method",
        "missing",
        "pieces",
        "properties",
        "sink",
    )

    def __init__(self, channel: int, sink: Sink) -> None:
        self.channel = channel
        self.sink = sink
        #: Consumer tag, exchange and routing key of the previous message.
        self.address: tuple[str, str, str] = ("", "", "")
        #: The bytes before and behind the delivery tag and ``redelivered`` in its method frame. Before the first
        #: message: bytes with which no frame begins.
        self.around_tag = (END, b"")
        self.method: Any = None
        self.properties: Properties | None = None
        self.missing = 0
        self.pieces: list[bytes] = []


class DeliveryReader:
    """Splits a stream into frames, keeps those of deliveries, and forwards the rest.

    :param forward: pika's ``data_received``
    """

    def __init__(self, forward: Callable[[bytes], None]) -> None:
        self._forward = forward
        self._channels: dict[int, _Delivery] = {}
        self._rest = b""
        self._next_sign = 0.0
        #: When the bytes that are being read arrived (`time.monotonic`).
        self.now = 0.0

    def attach(self, channel: int, sink: Sink) -> None:
        """Deliveries on this channel go to ``sink`` from now on."""
        self._channels[channel] = _Delivery(channel, sink)

    def detach(self, channel: int) -> None:
        """The channel is gone; its number may come back with another one."""
        self._channels.pop(channel, None)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream.

        :raises pika.exceptions.AMQPError: there is something that is no AMQP frame, so the rest can't be read
        """
        self.now = time.monotonic()
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position = begin = 0
        end = len(data)
        kept = False
        channels = self._channels
        while position + OVERHEAD <= end:
            kind, channel, size = _unpack_prefix(data, position)
            stop = position + OVERHEAD + size
            if kind not in _TYPES or (size > FRAME_MAX_SIZE and not is_large_header(kind, size)):
                raise InvalidFrameError(f"frame of type {kind} with {size} bytes from the broker")
            if stop > end:
                break
            delivery = channels.get(channel)
            if delivery is not None and kind == METHOD and delivery.method is None:
                behind = _take_whole(delivery, data, position, end)
                if behind > position:
                    if begin < position:
                        self._forward(data[begin:position])
                    position = begin = behind
                    kept = True
                    continue
            if delivery is not None and self._take(delivery, kind, data, position + 7, stop - 1):
                if begin < position:
                    self._forward(data[begin:position])
                begin = stop
                kept = True
            elif kind == HEADER and has_odd_headers(data[position:stop]):
                self._forward(data[begin:position])
                self._forward(without_headers(data[position:stop]))
                begin = stop
            position = stop
        if begin < position:
            self._forward(data[begin:position])
        elif kept and self.now > self._next_sign:
            self._next_sign = self.now + _SIGN_OF_LIFE
            self._forward(HEARTBEAT_FRAME)
        self._rest = data[position:]
        if self._rest and self._rest[0] not in _TYPES:
            # At once, because no more may come: what a TLS port answers is shorter than a frame.
            raise InvalidFrameError(f"no AMQP frame, but {self._rest[:16]!r}")

    def _take(self, delivery: _Delivery, kind: int, data: bytes, start: int, stop: int) -> bool:
        """Take a frame's payload, ``data[start:stop]``, if it belongs to a delivery."""
        if data[stop] != END[0]:
            return False
        if kind == METHOD:
            name = data[start : start + 4]
            if name == _BASIC_DELIVER:
                delivery.method = _deliver(delivery, data, start + 4, stop)
                return True
            if name == _BASIC_GET_OK:
                delivery.method = _get_ok(data, start + 4, stop)
                return True
            if name == _CHANNEL_CLOSE:
                delivery.sink.closing()
            return False
        method = delivery.method
        if method is None:
            return False  # the content of a basic.return
        if kind == HEADER:
            (delivery.missing,) = _unpack_size(data, start + 4)
            delivery.properties = _properties(data[start + 12 : stop])
            if delivery.missing:
                return True
            body = b""
        elif kind == BODY:
            if delivery.properties is None:
                raise InvalidFrameError("body without a content header from the broker")
            body = data[start:stop]
            missing = delivery.missing = delivery.missing - len(body)
            if missing > 0:
                delivery.pieces.append(body)
                return True
            if missing:
                raise InvalidFrameError(f"body with {-missing} bytes too many from the broker")
            if delivery.pieces:
                delivery.pieces.append(body)
                body = b"".join(delivery.pieces)
                delivery.pieces = []
        else:
            return False
        properties = delivery.properties
        delivery.method = delivery.properties = None
        assert properties is not None
        delivery.sink.deliver(method, properties, body)
        return True


def _properties(raw: bytes) -> Properties:
    return Timed(raw) if len(raw) > 1 and raw[1] & _HAS_TIMESTAMP else Properties(raw)


def _take_whole(delivery: _Delivery, data: bytes, position: int, end: int) -> int:
    """Take deliveries of the usual form: one behind the other, each whole and in three frames, to the same consumer
    from the same exchange by the same routing key. Any other is left to `_take`.

    :returns: the position behind them
    """
    before_tag, behind_tag = delivery.around_tag
    tag = len(before_tag)
    header = tag + 9 + len(behind_tag)
    channel = delivery.channel
    consumer_tag, exchange, routing_key = delivery.address
    deliver = delivery.sink.deliver
    while data.startswith(before_tag, position) and data.startswith(behind_tag, position + tag + 9):
        start = position + header
        body = start + 27  # behind a header without properties, and the end octet
        if body > end:
            break
        kind, number, size, _, length = _unpack_header(data, start)
        body = start + 15 + size
        stop = body + length + 1
        if (
            stop > end
            or kind != HEADER
            or number != channel
            or _unpack_prefix(data, body - 7) != (BODY, channel, length)
            or data[body - 8] != 0xCE
            or data[stop - 1] != 0xCE
        ):
            break
        delivery_tag, redelivered = _unpack_delivery(data, position + tag)
        deliver(
            Basic.Deliver(consumer_tag, delivery_tag, redelivered, exchange, routing_key),
            _properties(data[start + 19 : body - 8]),
            data[body : stop - 1],
        )
        position = stop
    return position


def _deliver(delivery: _Delivery, data: bytes, start: int, stop: int) -> Basic.Deliver:
    tag = start + 1 + data[start]
    delivery_tag, redelivered = _unpack_delivery(data, tag)
    middle = tag + 10 + data[tag + 9]
    consumer_tag = _text(data[start + 1 : tag])
    exchange = _text(data[tag + 10 : middle])
    routing_key = _text(data[middle + 1 : stop])
    # With the frame's prefix and the method's number before it, and the end octet behind it.
    delivery.around_tag = (data[start - 11 : tag], data[tag + 9 : stop + 1])
    delivery.address = (consumer_tag, exchange, routing_key)
    return Basic.Deliver(consumer_tag, delivery_tag, redelivered, exchange, routing_key)


def _text(raw: bytes) -> str:
    """A short string. A publisher can put any bytes into a routing key, by the header ``CC``."""
    return raw.decode(errors="backslashreplace")


def _get_ok(data: bytes, start: int, stop: int) -> Basic.GetOk:
    delivery_tag, redelivered = _unpack_delivery(data, start)
    middle = start + 10 + data[start + 9]
    exchange = _text(data[start + 10 : middle])
    routing_key = _text(data[middle + 1 : stop - 4])
    (count,) = _unpack_count(data, stop - 4)
    return Basic.GetOk(delivery_tag, redelivered, exchange, routing_key, count)
