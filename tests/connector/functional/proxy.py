"""A TCP proxy before a broker that cuts, freezes, slows, filters and poisons the stream."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

#: Takes every connection down with a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.broker = socket.create_connection(("127.0.0.1", proxy.target), 5)
        self.broker.settimeout(None)
        self.flowing = threading.Event()
        self.flowing.set()
        self.lock = threading.Lock()
        self.ended = False
        self._rest = b""
        # Limits count from the moment at which the connection was made.
        limits = (proxy.cut_down_after, proxy.cut_up_after)
        down = (self.broker, self.client, limits[0], True)
        up = (self.client, self.broker, limits[1], False)
        for direction in (down, up):
            threading.Thread(target=self._pump, args=direction, daemon=True).start()

    def end(self, reset: bool) -> None:
        self.ended = True
        for each in (self.client, self.broker):
            with contextlib.suppress(OSError):
                if reset:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # Wakes up the thread that reads, without which closing would have no effect.
                each.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                each.close()

    def _pump(
        self, source: socket.socket, sink: socket.socket, limit: int | None, down: bool
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError, ValueError):
            while data := source.recv(65536):
                self.flowing.wait()
                if limit is not None and passed + len(data) >= limit:
                    sink.sendall(data[: limit - passed])
                    self.proxy.cuts += 1
                    self.end(reset=True)
                    return
                passed += len(data)
                if down and self.proxy.swallowed:
                    data = self._filtered(data)
                piece, pause = self.proxy.slow or (len(data) or 1, 0.0)
                for start in range(0, len(data), piece):
                    with self.lock:
                        sink.sendall(data[start : start + piece])
                    if pause:
                        time.sleep(pause)
        if not self.ended:
            self.end(reset=False)

    def _filtered(self, data: bytes) -> bytes:
        """Drop whole method frames of the kinds to swallow."""
        data = self._rest + data
        kept = b""
        while len(data) >= 8:
            kind, _, size = struct.unpack(">BHL", data[:7])
            if len(data) < size + 8:
                break
            frame, data = data[: size + 8], data[size + 8 :]
            if kind != 1 or struct.unpack(">HH", frame[7:11]) not in self.proxy.swallowed:
                kept += frame
        self._rest = data
        return kept


class Proxy:
    """Passes connections on to a port of this machine.

    :param target: the broker's port
    """

    def __init__(self, target: int) -> None:
        self.target = target
        #: Bytes after which a new connection is reset: from the broker, and to it.
        self.cut_down_after: int | None = None
        self.cut_up_after: int | None = None
        #: How often that happened.
        self.cuts = 0
        #: Bytes at a time, and seconds between them.
        self.slow: tuple[int, float] | None = None
        #: Methods from the broker that get lost, as (class, method).
        self.swallowed: set[tuple[int, int]] = set()
        self._links: list[_Link] = []
        self._halted: list[_Link] = []
        self.port = 0
        self.up()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.down(reset=True)

    def up(self) -> None:
        """Take connections again, on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self, reset: bool = False) -> None:
        """Refuse connections, and end those of now."""
        with contextlib.suppress(OSError):  # it is down already
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes up the thread that accepts
        self._listener.close()
        self.end(reset)

    def end(self, reset: bool) -> None:
        """End every connection: with a reset (RST), or in order (FIN)."""
        links, self._links = self._links + self._halted, []
        self._halted = []
        for link in links:
            link.flowing.set()
            link.end(reset)

    def halt(self) -> None:
        """Pass on nothing more, and tell nobody: the connections of now are half-open."""
        self._halted, self._links = self._halted + self._links, []
        for link in self._halted:
            link.flowing.clear()

    def bury(self) -> None:
        """End the half-open connections, which takes their threads and sockets away."""
        halted, self._halted = self._halted, []
        for link in halted:
            link.end(reset=True)
            link.flowing.set()  # afterwards, so that what was held back goes nowhere

    def inject(self, data: bytes) -> None:
        """Say something to every client in the broker's name."""
        for link in self._links:
            with link.lock, contextlib.suppress(OSError):
                link.client.sendall(data)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                self._links.append(_Link(self, client))
            except OSError:
                client.close()
