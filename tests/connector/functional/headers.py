"""Headers as no client library writes them, for tests."""

from __future__ import annotations

import struct

import pika


class Raw(pika.BasicProperties):
    """Properties of which pika knows nothing: nothing but headers, as they go over the wire."""

    def __init__(self, table: bytes) -> None:
        super().__init__()
        self._table = table

    def encode(self) -> list[bytes]:
        return [b"\x20\x00", struct.pack(">L", len(self._table)), self._table]


def field(name: str, kind: bytes, value: bytes) -> bytes:
    """An entry of a header table (AMQP 0-9-1, 4.2.5.5)."""
    return bytes([len(name)]) + name.encode() + kind + value


def nested(levels: int) -> bytes:
    """A table in a table in a table."""
    table = b""
    for _ in range(levels):
        table = field("t", b"F", struct.pack(">L", len(table)) + table)
    return table
