"""A transport on a running loop and the socket at its other end, for tests of the stream."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mq_connector.connection.wire.transport import Services, Transport
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils import nbio_interface

#: Longest wait for anything, in seconds; nothing here takes a tenth of it.
PATIENCE = 60.0


class Protocol(nbio_interface.AbstractStreamProtocol):
    """Stands in for pika's connection and writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.received = bytearray()
        self.lost = threading.Event()
        self.error: BaseException | None = None

    def connection_made(self, transport: nbio_interface.AbstractStreamTransport) -> None:
        self.events.append("made")

    def connection_lost(self, error: BaseException | None) -> None:
        self.events.append("lost")
        self.error = error
        self.lost.set()

    def eof_received(self) -> bool:
        self.events.append("eof")
        return False

    def data_received(self, data: bytes) -> None:
        self.received += data


class Stream:
    """One transport on a running loop, and the socket at its other end."""

    def __init__(self, services: Services, near: socket.socket, peer: socket.socket) -> None:
        near.setblocking(False)
        self.services = services
        self.near = near
        self.peer = peer
        self.protocol = Protocol()
        self.result: Any = None
        self._done = threading.Event()

    def link(self, context: ssl.SSLContext | None = None, host: str | None = None) -> Any:
        def on_done(result: Any) -> None:
            self.result = result
            self._done.set()

        return self.services.create_streaming_connection(
            lambda: self.protocol, self.near, on_done, context, host
        )

    def wait(self) -> Any:
        assert self._done.wait(PATIENCE)
        return self.result

    @property
    def transport(self) -> Transport:
        assert self.services.transport is not None
        return self.services.transport

    def on_loop(self, function: Callable[[], object]) -> None:
        """Run a function on the loop and wait until it has run."""
        ran = threading.Event()

        def run() -> None:
            function()
            ran.set()

        self.services.add_callback_threadsafe(run)
        assert ran.wait(PATIENCE)


def shut(stream: Stream) -> None:
    """Close its transport, if it has one."""
    if stream.services.transport is not None:
        stream.services.transport.shut()


@pytest.fixture
def loop() -> Iterator[IOLoop]:
    """A loop that runs in a thread."""
    loop = IOLoop()
    thread = threading.Thread(target=loop.start)
    thread.start()
    yield loop
    loop.add_callback_threadsafe(loop.stop)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    loop.close()


@pytest.fixture
def make(loop: Any) -> Iterator[Callable[..., Stream]]:
    """Make streams that aren't linked yet."""
    with contextlib.ExitStack() as stack:

        def stream(kind: int = socket.SOCK_STREAM, send_buffer: int = 0) -> Stream:
            near, peer = (stack.enter_context(end) for end in socket.socketpair(type=kind))
            peer.settimeout(PATIENCE)
            if send_buffer:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            made = Stream(Services(loop), near, peer)
            stack.callback(shut, made)
            return made

        yield stream


@pytest.fixture
def stream(make: Callable[..., Stream]) -> Stream:
    """A plain stream, ready."""
    made = make()
    made.link()
    made.wait()
    return made


def read(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(65536)
        assert piece, f"the stream ended after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)
