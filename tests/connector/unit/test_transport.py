"""The stream under a connection: joined sends from any thread, and every way in which it can end."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector.connection.wire import transport as transport_module
from mq_connector.connection.wire.frames import HEARTBEAT_FRAME
from mq_connector.connection.wire.transport import Services, Transport
from pika.exceptions import InvalidFrameError
from waiting import eventually

from .streams import PATIENCE, Protocol, Stream, loop, make, read, stream

__all__ = ["loop", "make", "stream"]


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
