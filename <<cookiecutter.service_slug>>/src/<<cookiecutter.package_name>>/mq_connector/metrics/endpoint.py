"""A port that answers to GET, a few who ask at a time."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, NamedTuple

from ..errors import ConfigurationError, printable
from ..logs import Logger, text_of

_log = Logger(__name__)

#: Who may ask at the same time; more are sent away.
_MOST = 16
#: Seconds that somebody who asks gets for it, and to take the answer.
_PATIENCE = 5.0


class Reply(NamedTuple):
    """What is answered."""

    status: int
    content_type: str
    body: bytes


#: Gets the header ``Accept``.
Page = Callable[[str], Reply]


class Endpoint:
    """Listens at a port of all addresses of this machine, as who scrapes or probes is another machine.

    :param pages: what is answered to whom, by path
    :param private: the same for who asks from this machine: what may hold words of a request
    :raises ConfigurationError: the port can't be listened at
    """

    def __init__(
        self, port: int, pages: Mapping[str, Page], private: Mapping[str, Page] | None = None
    ) -> None:
        try:
            self._server = _listen(port, pages, private or {})
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"can't be had ({error})"
            raise ConfigurationError(
                f"MQ_METRICS_PORT: port {port} {why}; choose another one"
            ) from None
        threading.Thread(target=self._serve, name="mq-metrics", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        with suppress(OSError):  # Merely closed, it wouldn't end `accept`.
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def _serve(self) -> None:
        server = self._server
        while True:
            try:
                request, address = server.get_request()
            except OSError:
                if server.socket.fileno() < 0:
                    return  # closed
                time.sleep(0.1)  # no file left, say: that passes
                continue
            try:
                server.process_request(request, address)
            except Exception as error:  # no thread left, say
                _log.debug("nobody answers at the port of metrics: %s", text_of(error))
                server.shutdown_request(request)


def _listen(port: int, pages: Mapping[str, Page], private: Mapping[str, Page]) -> _Server:
    try:
        return _Server(socket.AF_INET6, port, pages, private)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        return _Server(socket.AF_INET, port, pages, private)  # a machine without IPv6


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: Or its end would wait for who asks.
    block_on_close = False

    def __init__(
        self,
        family: socket.AddressFamily,
        port: int,
        pages: Mapping[str, Page],
        private: Mapping[str, Page],
    ) -> None:
        self.address_family = family
        self.pages, self.private = pages, private
        self._places = threading.BoundedSemaphore(_MOST)
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not as `HTTPServer` does it, which asks the name service for our own name.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread has started that would give its place back
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("who asked at the port of metrics has gone", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: _Server
    #: Not which Python this is, as nobody has asked.
    server_version, sys_version = "mq_connector", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        pages = self.server.pages
        if self._is_from_here:
            pages = {**pages, **self.server.private}
        page = pages.get(path)
        if page is None:
            known = " ".join(pages)
            reply = Reply(404, "text/plain; charset=utf-8", f"there is: {known}\n".encode())
        else:
            try:
                reply = page(self.headers.get("Accept") or "")
            except Exception as error:
                _log.exception("%s can't be answered", printable(path))
                text = f"{type(error).__name__}, see the log\n"
                reply = Reply(500, "text/plain; charset=utf-8", text.encode())
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_HEAD = do_GET

    @property
    def _is_from_here(self) -> bool:
        address = ip_address(self.client_address[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    def log_message(self, format: str, *args: Any) -> None:
        """Who asks every few seconds is no news."""
