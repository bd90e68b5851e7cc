"""Headers that pika can't read, in what is left to it: the connection would be lost by them.

They come with what isn't delivered to a consumer of ours: replies to a client, messages that a handler gets,
messages that come back. Whoever sends them may put anything into them.
"""

from __future__ import annotations

import struct

import pika

from .frames import END

#: Where the flags are in a content header's frame (AMQP 0-9-1, 4.2.6.1). The first of their bytes tells which of the
#: first eight properties there are: of these, headers are the third.
_FLAGS = 19
_HAS_HEADERS, _BEFORE_HEADERS = 0x20, (0x80, 0x40)
#: Calls between us and where pika reads the same, and some more: how deep tables may be nested depends on them.
_DEEPER = 40

_unpack_count = struct.Struct(">L").unpack_from
_pack_count = struct.Struct(">L").pack


def has_odd_headers(frame: bytes) -> bool:
    """Whether there are headers in a content header's frame, and pika can't read them."""
    if len(frame) <= _FLAGS + 2 or not frame[_FLAGS] & _HAS_HEADERS:
        return False
    return not _is_read(frame[_FLAGS:-1], _DEEPER)


def without_headers(frame: bytes) -> bytes:
    """The same frame without them; all other properties are such that anything can be read."""
    begin = _FLAGS + 2
    for flag in _BEFORE_HEADERS:
        if frame[_FLAGS] & flag:
            begin += 1 + frame[begin]
    (size,) = _unpack_count(frame, begin)
    flags = bytes((frame[_FLAGS] & ~_HAS_HEADERS,))
    others = frame[_FLAGS + 1 : begin] + frame[begin + 4 + size : -1]
    payload = frame[7:_FLAGS] + flags + others
    return frame[:3] + _pack_count(len(payload)) + payload + END


def _is_read(properties: bytes, deeper: int) -> bool:
    if deeper:
        return _is_read(properties, deeper - 1)
    try:
        pika.BasicProperties().decode(properties)
    except Exception:  # whatever what a peer has sent leads to
        return False
    return True
