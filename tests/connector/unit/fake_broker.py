"""A broker that says exactly what a test wants it to say, on a loopback socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
from pika import frame, spec

from . import wire

#: Longest wait for anything, in seconds.
PATIENCE = 60.0


class Gone(Exception):
    """The client has closed its side."""


class BrokerEnd:
    """The broker's end of one connection."""

    def __init__(self, sock: socket.socket, version: str) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        #: The tag of the client's consumer, for scripts that have one.
        self.consumer_tag = ""
        #: Channels that a connection may have.
        self.channel_max = 2047
        self._version = version
        self._buffer = b""

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def method(self, channel: int, method: Any) -> None:
        self.send(wire.method(channel, method))

    def read(self) -> Any:
        """The client's next frame."""
        while True:
            size, each = frame.decode_frame(self._buffer)
            if each is not None:
                self._buffer = self._buffer[size:]
                if not isinstance(each, frame.Heartbeat):
                    return each
            else:
                data = self.sock.recv(65536)
                if not data:
                    raise Gone
                self._buffer += data

    def expect(self, kind: type) -> Any:
        """The client's next method, which must be of this kind."""
        each = self.read()
        method = getattr(each, "method", each)
        assert isinstance(method, kind), f"expected {kind.__name__}, got {method!r}"
        return method

    def greet(self, mechanisms: str = "PLAIN AMQPLAIN") -> Any:
        """Everything up to the client's credentials; returns what it says of itself."""
        assert isinstance(self.read(), frame.ProtocolHeader)
        properties: dict[str, Any] = {
            "version": self._version,
            "capabilities": {
                "basic.nack": True,
                "connection.blocked": True,
                "consumer_cancel_notify": True,
                "publisher_confirms": True,
            },
        }
        self.method(
            0,
            spec.Connection.Start(
                server_properties=properties, mechanisms=mechanisms, locales="en_US"
            ),
        )
        return self.expect(spec.Connection.StartOk)

    def tune(self) -> None:
        self.method(0, spec.Connection.Tune(self.channel_max, wire.FRAME_MAX, 60))
        self.expect(spec.Connection.TuneOk)
        self.expect(spec.Connection.Open)

    def open(self) -> None:
        """The whole way to an open connection."""
        self.greet()
        self.tune()
        self.method(0, spec.Connection.OpenOk())

    def open_channel(self) -> int:
        """Open the channel that the client asks for next; returns its number."""
        each = self.read()
        assert isinstance(each.method, spec.Channel.Open), each
        self.method(each.channel_number, spec.Channel.OpenOk())
        return int(each.channel_number)

    def confirm(self, channel: int) -> None:
        """The client wants confirms, and says whether it wants to hear so."""
        if not self.expect(spec.Confirm.Select).nowait:
            self.method(channel, spec.Confirm.SelectOk())

    def close_channel(self, channel: int, code: int, text: str) -> None:
        self.method(channel, spec.Channel.Close(code, text, 0, 0))
        self.expect(spec.Channel.CloseOk)

    def close(self, code: int, text: str) -> None:
        """Close the whole connection."""
        self.method(0, spec.Connection.Close(code, text, 0, 0))
        with contextlib.suppress(Gone, OSError):
            while not isinstance(getattr(self.read(), "method", None), spec.Connection.CloseOk):
                pass

    def publish(self) -> tuple[Any, pika.BasicProperties, bytes]:
        """The message that the client publishes next."""
        method = self.expect(spec.Basic.Publish)
        header = self.read()
        body = b""
        while len(body) < header.body_size:
            body += self.read().fragment
        return method, header.properties, body

    def farewell(self) -> None:
        """Answer whatever the client still says until it goes."""
        answers: dict[type, Any] = {
            spec.Queue.Delete: spec.Queue.DeleteOk(0),
            spec.Basic.Cancel: spec.Basic.CancelOk(self.consumer_tag),
            spec.Channel.Close: spec.Channel.CloseOk(),
            spec.Connection.Close: spec.Connection.CloseOk(),
            spec.Channel.Open: spec.Channel.OpenOk(),
        }
        with contextlib.suppress(Gone, OSError):
            while True:
                each = self.read()
                answer = answers.get(type(getattr(each, "method", None)))
                if answer is not None:
                    self.method(each.channel_number, answer)


Script = Callable[[BrokerEnd], None]


class FakeBroker:
    """Runs one script for each connection that is made, in this order; the last one repeatedly."""

    def __init__(self, *scripts: Script, version: str = "3.13.0") -> None:
        self._scripts = scripts
        self._version = version
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        #: Connections that were made so far.
        self.count = 0
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def parameters(self, vhost: str = "/echo") -> pika.ConnectionParameters:
        return pika.ConnectionParameters(
            "127.0.0.1",
            self.port,
            vhost,
            pika.PlainCredentials("echo", "secret"),
            connection_attempts=1,
            socket_timeout=5,
            stack_timeout=5,
        )

    def close(self) -> None:
        """Stop, and raise what a script has failed with."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._accepting.join(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a script hasn't ended"
        if self.errors:
            raise self.errors[0]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                script = self._scripts[min(self.count, len(self._scripts) - 1)]
                self.count += 1
                thread = threading.Thread(target=self._run, args=(script, sock))
                self._threads.append(thread)
                thread.start()

    def _run(self, script: Script, sock: socket.socket) -> None:
        with sock:
            try:
                script(BrokerEnd(sock, self._version))
            except Gone:
                self.errors.append(AssertionError("the client went in the middle of the script"))
            except BaseException as error:
                self.errors.append(error)


@contextlib.contextmanager
def broker(*scripts: Script, version: str = "3.13.0") -> Iterator[FakeBroker]:
    """A broker that follows a script."""
    server = FakeBroker(*scripts, version=version)
    try:
        yield server
    finally:
        server.close()
