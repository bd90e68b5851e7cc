"""The stream under a connection, with TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from mq_connector.connection.wire.frames import HEARTBEAT_FRAME
from waiting import eventually

from .streams import PATIENCE, Stream, loop, make, read, stream

__all__ = ["loop", "make", "stream"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class TLSPeer:
    """The broker's side of a TLS stream, in a thread: it runs a script once hands are shaken."""

    def __init__(
        self, sock: socket.socket, authority: trustme.CA, script: Callable[[ssl.SSLSocket], None]
    ) -> None:
        self._sock = sock
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("broker.test").configure_cert(self._context)
        self._script = script
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._context.wrap_socket(self._sock, server_side=True) as secured:
                self._script(secured)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_tls_stream_carries_much_in_both_directions_at_once(
    make: Callable[..., Stream], authority: trustme.CA
) -> None:
    stream = make()
    count = 250_000
    outgoing = bytes(range(256)) * 8000
    received: list[bytes] = []

    def script(secured: ssl.SSLSocket) -> None:
        secured.settimeout(PATIENCE)
        stream.wait()
        sending = threading.Thread(target=stream.transport.send, args=([outgoing],))
        sending.start()
        for _ in range(10):
            secured.sendall(HEARTBEAT_FRAME * (count // 10))
        received.append(read(secured, len(outgoing)))
        sending.join()
        secured.sendall(HEARTBEAT_FRAME)
        secured.recv(1)

    peer = TLSPeer(stream.peer, authority, script)
    stream.link(trusting(authority), "broker.test")
    assert stream.wait() == (stream.transport, stream.protocol)
    expected = HEARTBEAT_FRAME * (count + 1)
    eventually(
        lambda: len(stream.protocol.received) == len(expected) or peer.error is not None, PATIENCE
    )
    assert peer.error is None
    assert stream.protocol.received == expected
    assert received == [outgoing]
    stream.on_loop(stream.transport.abort)
    peer.join()


def test_tls_streams_end_when_the_peer_says_so(
    make: Callable[..., Stream], authority: trustme.CA
) -> None:
    stream = make()
    peer = TLSPeer(stream.peer, authority, lambda secured: secured.unwrap().close())
    stream.link(trusting(authority), "broker.test")
    stream.wait()
    assert stream.protocol.lost.wait(PATIENCE)
    assert stream.protocol.events[0] == "made"
    assert stream.protocol.events[-1] == "lost"
    peer.join()


@pytest.mark.parametrize("trusted", [False, True], ids=["unknown authority", "another host's name"])
def test_a_certificate_that_is_not_trusted_ends_the_attempt(
    make: Callable[..., Stream], authority: trustme.CA, trusted: bool
) -> None:
    stream = make()
    peer = TLSPeer(stream.peer, authority, lambda secured: None)
    stream.link(trusting(authority if trusted else trustme.CA()), "elsewhere.test")
    assert isinstance(stream.wait(), ssl.SSLCertVerificationError)
    assert stream.protocol.events == []
    peer.join()


def test_a_peer_that_does_not_speak_tls_ends_the_attempt(
    make: Callable[..., Stream], authority: trustme.CA
) -> None:
    stream = make()
    stream.peer.sendall(b"AMQP\x00\x00\x09\x01")
    stream.link(trusting(authority), "broker.test")
    assert isinstance(stream.wait(), ssl.SSLError)


def test_a_peer_that_hangs_up_while_shaking_hands_ends_the_attempt(
    make: Callable[..., Stream], authority: trustme.CA
) -> None:
    stream = make()
    stream.link(trusting(authority), "broker.test")
    stream.peer.recv(10)
    stream.peer.close()
    assert isinstance(stream.wait(), OSError)


def test_a_missing_host_name_is_reported_and_not_raised_on_the_loop(
    make: Callable[..., Stream], authority: trustme.CA
) -> None:
    stream = make()
    stream.link(trusting(authority), None)
    assert isinstance(stream.wait(), ValueError)


def test_shaking_hands_can_be_cancelled(make: Callable[..., Stream], authority: trustme.CA) -> None:
    stream = make()
    linkups: list[Any] = []
    stream.on_loop(lambda: linkups.append(stream.link(trusting(authority), "broker.test")))
    assert stream.peer.recv(3), "the handshake has begun"
    stream.on_loop(lambda: linkups[0].cancel())
    while stream.peer.recv(65536):
        pass
    stream.on_loop(lambda: None)
    assert stream.result is None
