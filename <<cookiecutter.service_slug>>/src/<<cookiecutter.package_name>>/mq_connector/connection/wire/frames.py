"""AMQP 0-9-1 frames of the three methods that a busy consumer sends: publish, ack, reject.

pika marshals any method from a description and sends each frame on its own. A consumer sends only
these few, thousands of times a second, so they are packed here directly and joined by the caller.
Layouts: AMQP 0-9-1, sections 4.2.3 (frames), 4.2.6 (content) and the grammar of class ``basic``.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import pika
from pika.spec import FRAME_MAX_SIZE

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
#: Octet that ends every frame (``frame-end``).
END = b"\xce"
#: Bytes around a frame's payload: type, channel and size before it, the end octet behind it.
OVERHEAD = 8
#: An empty frame of type heartbeat on channel 0.
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

#: Bytes that a content header may have. RabbitMQ keeps to what was negotiated (128 KiB) in other frames,
#: but a header is never split (AMQP 0-9-1, 4.2.6), and each death of a message adds to what its publisher
#: may have filled; the names in a death can be as long again.
_LARGEST_HEADER = 16 * FRAME_MAX_SIZE

_BASIC = 60
_CANCEL, _PUBLISH, _ACK, _REJECT, _NACK = 30, 40, 80, 90, 120
_MANDATORY = b"\x01"

_prefix = struct.Struct(">BH").pack
_length = struct.Struct(">L").pack
_size = struct.Struct(">Q").pack
_method = struct.Struct(">BHLHH").pack
_content_header = struct.Struct(">BHLHH").pack
_settle = struct.Struct(">BHLHHQBB").pack


def is_large_header(kind: int, size: int) -> bool:
    """Whether a frame of a type and of so many bytes may come though it is larger than others may be."""
    return kind == HEADER and size <= _LARGEST_HEADER


def ack(channel: int, delivery_tag: int, multiple: bool) -> bytes:
    """``basic.ack`` for one delivery, or for all outstanding ones up to ``delivery_tag``."""
    return _settle(METHOD, channel, 13, _BASIC, _ACK, delivery_tag, multiple, 0xCE)


def reject(channel: int, delivery_tag: int, requeue: bool) -> bytes:
    """``basic.reject``: raises a quorum queue's delivery count when it requeues."""
    return _settle(METHOD, channel, 13, _BASIC, _REJECT, delivery_tag, requeue, 0xCE)


def nack(channel: int, delivery_tag: int, requeue: bool) -> bytes:
    """``basic.nack`` for one delivery: since RabbitMQ 4.3 a requeue that isn't counted."""
    return _settle(METHOD, channel, 13, _BASIC, _NACK, delivery_tag, requeue << 1, 0xCE)


def cancel(channel: int, consumer_tag: str) -> bytes:
    """``basic.cancel`` that the broker doesn't answer."""
    tag = _short_string("consumer tag", consumer_tag)
    return _method(METHOD, channel, len(tag) + 5, _BASIC, _CANCEL) + tag + b"\x01" + END


def octets(body: Any) -> bytes:
    """What an array or the like holds, as it is now: the length of one of numbers counts those, not its bytes.

    :raises TypeError: it has no bytes
    """
    return bytes(memoryview(body))


def publish(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: bytes,
    body: bytes,
    mandatory: bool,
    frame_max: int,
) -> bytes:
    """One publish: method frame, content header and as many body frames as ``frame_max`` asks for.

    :param properties: what `encode_properties` returned
    :param frame_max: largest frame in bytes, as negotiated for the connection
    :raises ValueError: when exchange or routing key exceed 255 bytes of UTF-8
    """
    size = len(body)
    head, body_prefix = _head(channel, exchange, routing_key, mandatory, len(properties))
    limit = frame_max - OVERHEAD
    if 0 < size <= limit:
        return b"".join((head, _size(size), properties, END, body_prefix, _length(size), body, END))
    pieces = [head, _size(size), properties, END]
    for start in range(0, size, limit):
        piece = body[start : start + limit]
        pieces += (body_prefix, _length(len(piece)), piece, END)
    return b"".join(pieces)


@lru_cache(maxsize=256)  # most clients come again
def _head(
    channel: int, exchange: str, routing_key: str, mandatory: bool, size: int
) -> tuple[bytes, bytes]:
    """What stands before the body's size in a publish, and before the length in a body frame.

    :param size: of the encoded properties
    """
    address = (
        b"\x00\x00"
        + _short_string("exchange", exchange)
        + _short_string("routing key", routing_key)
    )
    head = (
        _method(METHOD, channel, len(address) + 5, _BASIC, _PUBLISH)
        + address
        + (_MANDATORY if mandatory else b"\x00")
        + END
        + _content_header(HEADER, channel, size + 12, _BASIC, 0)
    )
    return head, _prefix(BODY, channel)


def _short_string(what: str, text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError(f"{what} {text[:40]!r}… has {len(raw)} bytes; AMQP allows 255")
    return bytes((len(raw),)) + raw


#: Bytes of a content header's frame beside the properties: the frame's own, class, weight and body size.
_HEADER_OVERHEAD = OVERHEAD + 12
#: The largest expiration in milliseconds that is sent, some 49 days. RabbitMQ 3.10 takes more, but not any number.
LONGEST_EXPIRATION = 2**32 - 1
#: Headers that RabbitMQ reads itself: more routing keys, which must be a list.
_MORE_ROUTING_KEYS = ("CC", "BCC")
#: What stands for a consumer on the publisher's own channel, which ours never has.
_PSEUDO_QUEUE = "amq.rabbitmq.reply-to"


def check_size(size: int, frame_max: int) -> None:
    """Refuse properties that don't fit into one frame, for which the broker ends the connection.

    :param size: bytes of the encoded properties
    :param frame_max: largest frame in bytes, as negotiated for the connection
    :raises ValueError: with what to do instead
    """
    if size + _HEADER_OVERHEAD > frame_max:
        raise ValueError(
            f"the properties have {size} bytes, and {frame_max - _HEADER_OVERHEAD} are possible: "
            "put what the headers hold into the body"
        )


def check(
    properties: pika.BasicProperties, size: int, frame_max: int, user: str | None = None
) -> None:
    """Refuse what the broker would refuse by closing the channel, or the connection.

    :param size: bytes of the encoded properties
    :param frame_max: largest frame in bytes, as negotiated for the connection
    :param user: whom the connection has logged in as; None where that isn't known yet
    :raises ValueError: with what to do instead
    """
    check_size(size, frame_max)
    expiration = properties.expiration
    # In ASCII, as Python knows the digits of all scripts.
    if expiration is not None and not (
        str(expiration).isascii()
        and str(expiration).isdecimal()
        and int(expiration) <= LONGEST_EXPIRATION
    ):
        raise ValueError(
            f"expiration is {str(expiration)[:40]!r}: it must be milliseconds as decimal digits, such "
            f"as '1000', up to {LONGEST_EXPIRATION}"
        )
    if properties.user_id is not None and user is not None and properties.user_id != user:
        raise ValueError(
            f"user_id is {properties.user_id[:40]!r}, and the broker only takes {user!r}: leave it out"
        )
    if properties.reply_to == _PSEUDO_QUEUE:
        raise ValueError(
            f"reply_to is {_PSEUDO_QUEUE!r}, which only works on a channel that consumes it: use "
            "mq_connector.Client to send a request"
        )
    for name in _MORE_ROUTING_KEYS:
        value = (properties.headers or {}).get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"the header {name} must be a list of routing keys")


class PropertiesEncoder:
    """Encodes `pika.BasicProperties`, remembering the last: most replies carry the same.

    :param frame_max: largest frame in bytes, as negotiated for the connection
    :param user: whom the connection has logged in as; None where that isn't known yet
    """

    def __init__(self, frame_max: int = FRAME_MAX_SIZE, user: str | None = None) -> None:
        self._last: tuple[dict[str, object], bytes] = ({}, b"\x00\x00")
        self._frame_max = frame_max
        self._user = user

    def __call__(self, properties: pika.BasicProperties | None) -> bytes:
        """:returns: property flags and values, as they stand in a content header

        :raises ValueError: the broker wouldn't take them, see `check`
        """
        if properties is None:
            return b"\x00\x00"
        last, encoded = self._last
        values = vars(properties)
        if values == last:
            return encoded
        encoded = b"".join(properties.encode())
        check(properties, len(encoded), self._frame_max, self._user)
        # A table can be changed in place without its owner looking any different.
        if values.get("headers") is None:
            self._last = (dict(values), encoded)
        return encoded
