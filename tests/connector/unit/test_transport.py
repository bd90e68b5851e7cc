"""The stream under a connection: joined sends from any thread, and every way in which it can end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
from mq_connector.connection.wire import transport as transport_module
from mq_connector.connection.wire.frames import HEARTBEAT_FRAME
from mq_connector.connection.wire.transport import Services, Transport
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils import nbio_interface
from pika.exceptions import InvalidFrameError
from waiting import eventually

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


# ---- sending


def test_frames_that_are_sent_together_leave_in_one_system_call(
    make: Callable[..., Stream],
) -> None:
    # This kind of socket keeps the bounds of what was sent at once.
    stream = make(socket.SOCK_SEQPACKET)
    stream.link()
    stream.wait()
    stream.transport.send([b"one ", b"two ", b"three"])
    stream.transport.write(b"four")
    stream.transport.send([])
    assert stream.peer.recv(100) == b"one two three"
    assert stream.peer.recv(100) == b"four"
    assert stream.transport.get_write_buffer_size() == 0
    assert stream.transport.get_protocol() is stream.protocol


def test_what_the_socket_does_not_take_at_once_follows_in_order(stream: Stream) -> None:
    sent = b"".join(struct.pack(">L", number) for number in range(1_000_000))
    stream.transport.send([sent[:3_000_000]])
    stream.transport.send([sent[3_000_000:3_500_000]])
    assert stream.transport.get_write_buffer_size() > 0
    stream.transport.send([sent[3_500_000:]])
    assert read(stream.peer, len(sent)) == sent
    eventually(lambda: stream.transport.get_write_buffer_size() == 0, PATIENCE)
    stream.transport.send([b"again"])
    assert read(stream.peer, 5) == b"again"


def test_threads_that_send_at_once_do_not_tear_each_others_frames(
    make: Callable[..., Stream],
) -> None:
    stream = make(send_buffer=4096)
    stream.link()
    stream.wait()
    count, threads, size = 60, 6, 30_000

    def send(sender: int) -> None:
        for number in range(count):
            frame = struct.pack(">BL", sender, number).ljust(size, b"x")
            stream.transport.send([frame[:10], frame[10:]])

    running = [threading.Thread(target=send, args=(sender,)) for sender in range(threads)]
    for thread in running:
        thread.start()
    data = read(stream.peer, count * threads * size)
    for thread in running:
        thread.join()
    seen: dict[int, list[int]] = {sender: [] for sender in range(threads)}
    for start in range(0, len(data), size):
        frame = data[start : start + size]
        assert frame[5:] == b"x" * (size - 5)
        sender, number = struct.unpack(">BL", frame[:5])
        seen[sender].append(number)
    assert seen == {sender: list(range(count)) for sender in range(threads)}


def test_only_one_thread_is_in_the_socket_at_a_time(loop: Any) -> None:
    class SlowSocket:
        inside = 0
        most = 0

        def send(self, data: bytes) -> int:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.01)
            self.inside -= 1
            return len(data)

    sock: Any = SlowSocket()
    transport = Transport(sock, Protocol(), Services(loop))
    threads = [threading.Thread(target=transport.send, args=([b"frame"],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sock.most == 1


def test_a_publisher_waits_while_too_much_is_waiting_for_the_socket(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "HIGH_WATER", 1_000_000)
    assert stream.transport.wait_for_room(0)
    stream.transport.send([b"x" * 3_000_000])
    began = time.monotonic()
    assert not stream.transport.wait_for_room(0.1)
    assert time.monotonic() - began >= 0.09
    freed: list[bool] = []
    waiting = threading.Thread(
        target=lambda: freed.append(stream.transport.wait_for_room(9 * PATIENCE))
    )
    waiting.start()
    read(stream.peer, 3_000_000)
    waiting.join(PATIENCE)
    assert freed == [True]


# ---- receiving


def test_what_arrives_reaches_pika_complete(stream: Stream) -> None:
    count = 300_000
    sending = threading.Thread(target=stream.peer.sendall, args=(HEARTBEAT_FRAME * count,))
    sending.start()
    eventually(lambda: len(stream.protocol.received) == len(HEARTBEAT_FRAME) * count, PATIENCE)
    sending.join()
    assert stream.protocol.received == HEARTBEAT_FRAME * count
    assert stream.protocol.events == ["made"]


# ---- failures: every way in which a stream ends


def test_when_the_peer_closes_pika_is_told_once(stream: Stream) -> None:
    stream.peer.close()
    assert stream.protocol.lost.wait(PATIENCE)
    stream.transport.send([b"too late"])
    stream.on_loop(stream.transport.abort)
    stream.on_loop(lambda: None)
    assert stream.protocol.events == ["made", "eof", "lost"]
    assert stream.protocol.error is None
    assert stream.near.fileno() == -1


def test_when_the_peer_resets_pika_hears_why(loop: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    stream = Stream(Services(loop), near, peer)
    stream.link()
    stream.wait()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert stream.protocol.lost.wait(PATIENCE)
    assert isinstance(stream.protocol.error, ConnectionResetError)
    assert stream.protocol.events == ["made", "lost"]


def test_a_malformed_frame_ends_the_connection(stream: Stream) -> None:
    stream.peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert stream.protocol.lost.wait(PATIENCE)
    assert isinstance(stream.protocol.error, InvalidFrameError)
    assert stream.peer.recv(10) == b""


def test_an_error_of_pika_ends_the_connection_and_not_the_loop(
    stream: Stream,
) -> None:
    broken = RuntimeError("broken")

    def fail(data: bytes) -> None:
        raise broken

    stream.transport.reader = type(stream.transport.reader)(fail)
    stream.peer.sendall(HEARTBEAT_FRAME)
    assert stream.protocol.lost.wait(PATIENCE)
    assert stream.protocol.error is broken
    stream.on_loop(lambda: None)


def test_after_an_abort_pika_is_told_on_the_loops_next_turn(stream: Stream) -> None:
    events: list[list[str]] = []

    def abort() -> None:
        stream.transport.abort()
        events.append(list(stream.protocol.events))
        stream.transport.abort()

    stream.on_loop(abort)
    assert stream.protocol.lost.wait(PATIENCE)
    stream.on_loop(lambda: None)
    assert events == [["made"]]
    assert stream.protocol.events == ["made", "lost"]
    assert stream.protocol.error is None
    assert stream.peer.recv(10) == b""


def test_a_connection_that_was_given_up_looks_like_one_that_failed(stream: Stream) -> None:
    reason = ConnectionAbortedError("given up")
    stream.on_loop(lambda: stream.transport.fail(reason))
    assert stream.protocol.lost.wait(PATIENCE)
    assert stream.protocol.error is reason


def test_sending_to_a_peer_that_has_gone_is_no_error_of_the_sender(stream: Stream) -> None:
    stopped = threading.Event()

    def read_nothing() -> None:
        stopped.wait(PATIENCE)

    stream.services.add_callback_threadsafe(read_nothing)
    stream.peer.close()
    for _ in range(3):
        stream.transport.send([b"into the void"])
    stopped.set()
    assert stream.protocol.lost.wait(PATIENCE)


def test_closing_frees_publishers_and_drops_what_they_send(make: Callable[..., Stream]) -> None:
    stream = make(send_buffer=4096)
    stream.link()
    stream.wait()
    transport = stream.transport
    failures: list[BaseException] = []
    sent = threading.Semaphore(0)
    ended = threading.Event()

    def publish() -> None:
        try:
            while not ended.is_set():
                transport.wait_for_room(9 * PATIENCE)
                transport.send([b"y" * 100_000])
                sent.release()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(60):  # the peer reads nothing; at 8 MB all publishers wait
        assert sent.acquire(timeout=PATIENCE)
    stream.on_loop(transport.abort)
    assert stream.protocol.lost.wait(PATIENCE)
    time.sleep(0.02)
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
    assert stream.protocol.events == ["made", "lost"]


def test_shutting_after_the_loop_has_ended_tells_nobody(stream: Stream) -> None:
    stream.on_loop(stream.transport.shut)
    stream.transport.shut()
    assert stream.peer.recv(10) == b""
    assert stream.protocol.events == ["made"]
    assert stream.transport.wait_for_room(0)


def test_a_stream_that_is_cancelled_before_it_begins_closes_its_socket(
    make: Callable[..., Stream],
) -> None:
    stream = make()
    cancelled: list[bool] = []
    stream.on_loop(lambda: cancelled.extend(each.cancel() for each in [stream.link()] * 2))
    stream.on_loop(lambda: None)
    assert cancelled == [True, False]
    assert stream.peer.recv(10) == b""
    assert stream.result is None
    assert stream.protocol.events == []


def test_a_stream_that_has_begun_cannot_be_cancelled(make: Callable[..., Stream]) -> None:
    stream = make()
    linkup = stream.link()
    stream.wait()
    assert not linkup.cancel()
    stream.transport.send([b"alive"])
    assert read(stream.peer, 5) == b"alive"


def test_a_protocol_that_cannot_be_made_is_reported(loop: Any) -> None:
    near, peer = socket.socketpair()
    results: list[Any] = []
    done = threading.Event()
    broken = RuntimeError("no protocol")

    def factory() -> Any:
        raise broken

    def on_done(result: Any) -> None:
        results.append(result)
        done.set()

    services = Services(loop)
    services.create_streaming_connection(factory, near, on_done)
    assert done.wait(PATIENCE)
    assert results == [broken]
    assert near.fileno() == -1
    peer.close()


# ---- TLS


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
