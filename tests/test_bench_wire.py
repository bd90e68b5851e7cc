"""The benchmark's own client: what it sends, and how it counts replies."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from pika import frame, spec

from bench.contenders import BY_NAME, OURS
from bench.lab import request
from bench.wire import TAG, Client

REPLY = "IntcIm1lc3NhZ2VfaWRcIjogMX0i"


def delivery(body: bytes, tag: int = 1, redelivered: bool = False) -> bytes:
    """The frames of a delivery, as the broker sends them."""
    method = spec.Basic.Deliver(TAG.decode(), tag, redelivered, "", "bench_replies")
    head = frame.Header(1, len(body), spec.BasicProperties())
    return method_bytes(method) + head.marshal() + frame.Body(1, body).marshal()


def method_bytes(method: spec.Basic.Deliver) -> bytes:
    pieces = b"".join(method.encode())
    payload = method.INDEX.to_bytes(4, "big") + pieces
    return b"\x01\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"


@pytest.fixture
def wire() -> Iterator[tuple[Client, socket.socket]]:
    """A client that is logged in already, and the broker's end of its socket."""
    ours, theirs = socket.socketpair()
    client = Client.__new__(Client)
    client._socket, client._rest, client._timeout = ours, b"", 1.0
    client.replies, client.confirmed = 0, 0
    client.delivery_tag, client.redelivered = 0, False
    yield client, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("size", [1, 7, 20, 33, 1000])
def test_replies_are_counted_wherever_the_stream_is_cut(
    wire: tuple[Client, socket.socket], size: int
) -> None:
    client, broker = wire
    stream = b"".join(delivery(REPLY.encode(), tag) for tag in range(1, 21))

    def send() -> None:
        for start in range(0, len(stream), size):
            broker.sendall(stream[start : start + size])
            time.sleep(0.0002)

    thread = threading.Thread(target=send)
    thread.start()
    assert client.count_replies(20, time.monotonic() + 20) == 20
    thread.join()
    assert client.count_replies(21, time.monotonic() + 0.1) == 20, "one counted twice"


def test_collected_replies_have_the_id_of_their_request(
    wire: tuple[Client, socket.socket],
) -> None:
    client, broker = wire
    key, body = request(BY_NAME[OURS], 1)
    broker.sendall(delivery(body, 5, redelivered=True))
    assert list(client.collect(time.monotonic() + 1)) == [key]
    assert (client.delivery_tag, client.redelivered) == (5, True)
    broker.sendall(delivery(body, 6))
    assert list(client.collect(time.monotonic() + 1)) == [key]
    assert (client.delivery_tag, client.redelivered) == (6, False)


@pytest.mark.parametrize("size", [0, 10, 131_064, 131_065, 400_000])
def test_published_frames_are_those_of_pika(wire: tuple[Client, socket.socket], size: int) -> None:
    client, _ = wire
    client._frame_max = 131_072
    data, kinds, body = client.publisher("queue")(b"x" * size), [], b""
    while data:
        used, found = frame.decode_frame(data)
        assert used <= client._frame_max
        kinds.append(type(found).__name__)
        body += found.fragment if isinstance(found, frame.Body) else b""
        data = data[used:]
    assert kinds[:2] == ["Method", "Header"]
    assert body == b"x" * size
