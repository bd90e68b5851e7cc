"""The stream under a pika connection, which any thread may send on.

pika sends each frame with a system call of its own, and only from its loop. This transport takes
whole bursts of frames from worker threads and sends them at once, without waking the loop. It plugs
into pika's documented interface for adapters, ``pika.adapters.utils.nbio_interface``.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pika.adapters.utils import nbio_interface
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from .deliveries import DeliveryReader

#: Bytes asked of the kernel at once. Small enough for the allocator to recycle, and 16 times pika's.
RECEIVE_SIZE = 65536
#: Bytes that may wait for the socket before `Transport.wait_for_room` makes a publisher wait.
HIGH_WATER = 8 * 1024 * 1024
#: Reads in a row before the loop looks at its timers again.
_READS_PER_EVENT = 16

_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Transport(nbio_interface.AbstractStreamTransport):
    """A non-blocking socket with an outgoing buffer.

    :param sock: connected, non-blocking; plain or TLS after its handshake
    :param protocol: pika's side of the stream
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: nbio_interface.AbstractStreamProtocol,
        services: Services,
    ) -> None:
        self._sock = sock
        self._protocol = protocol
        self._services = services
        self._tls = isinstance(sock, ssl.SSLSocket)
        # One lock for sending; a TLS session is one object for both directions, so reading takes it too.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._waiting: list[bytes] = []
        #: Bytes that the socket hasn't taken yet.
        self.size = 0
        #: What was wrong with the stream, if that has ended the connection.
        self.unreadable: Exception | None = None
        self._closed = False
        self.reader = DeliveryReader(protocol.data_received)

    def start(self) -> None:
        """Introduce the transport to pika and begin to read."""
        self._services.set_reader(self._sock.fileno(), self._on_readable)
        self._protocol.connection_made(self)

    def get_protocol(self) -> nbio_interface.AbstractStreamProtocol:
        """Part of pika's interface."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """:returns: bytes that the socket hasn't taken yet"""
        return self.size

    def write(self, data: bytes) -> None:
        """Send what pika has marshalled; called on the loop."""
        self.send([data])

    def send(self, frames: list[bytes]) -> None:
        """Send whole frames, in one system call where the socket takes them; from any thread.

        Frames of one call stay together and calls keep their order. After the connection is lost
        they are dropped: pika tells of the loss.
        """
        if not frames:
            return
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        with self._lock:
            if self._closed:
                return
            if not self._waiting:
                try:
                    sent = self._sock.send(data)
                except _WOULD_BLOCK:
                    sent = 0
                except OSError:
                    return  # the reader sees the same error and ends the connection
                if sent == len(data):
                    return
                data = data[sent:]
                self._services.add_callback_threadsafe(self._watch_writable)
            self._waiting.append(data)
            self.size += len(data)

    @property
    def has_room(self) -> bool:
        """Whether `wait_for_room` would return at once."""
        return self.size < HIGH_WATER

    def wait_for_room(self, timeout: float) -> bool:
        """Wait while too much is waiting for the socket; never call this on the loop.

        :param timeout: longest wait in seconds
        :returns: whether there is room
        """
        if self.size < HIGH_WATER:
            return True
        with self._room:
            return self._room.wait_for(lambda: self._closed or self.size < HIGH_WATER, timeout)

    def abort(self) -> None:
        """Close at once; pika is told on the loop's next turn."""
        if self._close():
            self._services.add_callback_threadsafe(lambda: self._protocol.connection_lost(None))

    def fail(self, error: BaseException) -> None:
        """Close at once as if the network had failed; called on the loop."""
        self._services.add_callback_threadsafe(lambda: self._lost(error))

    def shut(self) -> None:
        """Close the socket and nothing else, when the loop has ended already."""
        with self._room:
            self._closed = True
            self._waiting.clear()
            self._room.notify_all()
            with suppress(OSError):  # a handler has closed it, though it isn't its own
                self._sock.close()

    def _close(self) -> bool:
        if self._closed:
            return False
        self._services.remove_reader(self._sock.fileno())
        self._services.remove_writer(self._sock.fileno())
        self.shut()
        return True

    def _lost(self, error: BaseException | None) -> None:
        if self._close():
            self._protocol.connection_lost(error)

    def _watch_writable(self) -> None:
        if not self._closed:
            self._services.set_writer(self._sock.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        with self._room:
            if self._closed:
                return
            if self._waiting:
                # Joined once; TLS takes 16 KiB at a time, and copying the rest each time would add up.
                data = memoryview(b"".join(self._waiting))
                try:
                    while data:
                        data = data[self._sock.send(data) :]
                except _WOULD_BLOCK:
                    pass
                except OSError:
                    pass  # as in send()
                self._waiting = [bytes(data)] if data else []
                self.size = len(data)
            if not self._waiting:
                self._services.remove_writer(self._sock.fileno())
            self._room.notify_all()

    def _on_readable(self) -> None:
        for _ in range(_READS_PER_EVENT):
            if self._closed:
                return
            try:
                data = self._receive()
            except _WOULD_BLOCK:
                return
            except OSError as error:
                self._lost(error)
                return
            if not data:
                if not self._closed and not self._protocol.eof_received():
                    self._lost(None)
                return
            try:
                self.reader.feed(data)
            except (
                Exception
            ) as error:  # a malformed frame ends the connection, whatever pika calls it
                self.unreadable = error
                self._lost(error)
                return
            if len(data) < RECEIVE_SIZE and not self._tls:
                return

    def _receive(self) -> bytes:
        if self._tls:
            with self._lock:
                return self._sock.recv(RECEIVE_SIZE)
        return self._sock.recv(RECEIVE_SIZE)


class Services(SelectorIOServicesAdapter):
    """pika's I/O services on pika's own loop, with our transport as the stream.

    One instance serves one connection; several instances may share a loop.
    """

    transport: Transport | None = None

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], nbio_interface.AbstractStreamProtocol],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> _Linkup:
        """Part of pika's interface: join protocol and socket, after the TLS handshake if any."""
        return _Linkup(self, protocol_factory, sock, on_done, ssl_context, server_hostname)


class _Linkup(nbio_interface.AbstractIOReference):
    """Brings up a stream on the loop: the TLS handshake, then the transport."""

    def __init__(
        self,
        services: Services,
        protocol_factory: Callable[[], nbio_interface.AbstractStreamProtocol],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
    ) -> None:
        self._services = services
        self._protocol_factory = protocol_factory
        self._sock = sock
        self._on_done = on_done
        self._context = ssl_context
        self._server_hostname = server_hostname
        self._active = True
        services.add_callback_threadsafe(self._start)

    def cancel(self) -> bool:
        """:returns: whether there was anything left to cancel"""
        if not self._active:
            return False
        self._stop_watching()
        self._active = False
        self._sock.close()
        return True

    def _start(self) -> None:
        if not self._active:
            return
        if self._context is None:
            self._link()
            return
        try:
            self._sock = self._context.wrap_socket(
                self._sock, do_handshake_on_connect=False, server_hostname=self._server_hostname
            )
        except (OSError, ValueError) as error:
            self._finish(error)
            return
        self._shake_hands()

    def _shake_hands(self) -> None:
        if not self._active:
            return
        assert isinstance(self._sock, ssl.SSLSocket)
        descriptor = self._sock.fileno()
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._services.remove_writer(descriptor)
            self._services.set_reader(descriptor, self._shake_hands)
        except ssl.SSLWantWriteError:
            self._services.remove_reader(descriptor)
            self._services.set_writer(descriptor, self._shake_hands)
        except OSError as error:
            self._finish(error)
        else:
            self._stop_watching()
            self._link()

    def _link(self) -> None:
        try:
            protocol = self._protocol_factory()
            transport = Transport(self._sock, protocol, self._services)
            self._services.transport = transport
            transport.start()
        except Exception as error:  # pika wants to be told of any
            self._finish(error)
        else:
            self._active = False
            self._on_done((transport, protocol))

    def _finish(self, error: BaseException) -> None:
        self._stop_watching()
        self._active = False
        self._sock.close()
        self._on_done(error)

    def _stop_watching(self) -> None:
        if self._sock.fileno() >= 0:
            self._services.remove_reader(self._sock.fileno())
            self._services.remove_writer(self._sock.fileno())
