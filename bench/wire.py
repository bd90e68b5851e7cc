"""The client of all measurements: AMQP on a plain socket, with next to no work for each message.

On a small machine the client takes its time from the same cores as what is measured. This one sends
a thousand requests in one call and counts replies by searching the stream, so that what differs
between two runs is the service.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pika import frame, spec

#: Tag of our one consumer. It makes the head of a delivery something that can be searched for.
TAG = b"bench-replies"
_ACK = b"\x00\x3c\x00\x50"
#: connection.close and channel.close.
_CLOSE = (b"\x00\x0a\x00\x32", b"\x00\x14\x00\x28")
_DELIVER = b"\x00\x3c\x00\x3c" + bytes([len(TAG)]) + TAG
_MESSAGE_ID = b"'message_id': '"
#: Bytes asked of the socket at a time.
_CHUNK = 1 << 18
#: Bytes of requests that are joined into one call.
_BURST = 1 << 17
#: Properties of a request: flags that say there are none. A persistent one has delivery mode 2.
_PLAIN, _PERSISTENT = b"\x00\x00", b"\x10\x00\x02"
_unpack_prefix = struct.Struct(">BHL").unpack_from


class WireError(Exception):
    """The broker refused something, or did not answer in time."""


@dataclass(frozen=True)
class Address:
    """Where the broker is, and as whom to log in."""

    port: int
    vhost: str
    user: str
    password: str
    host: str = "127.0.0.1"


class Client:
    """One connection with one channel, for one thread.

    :raises OSError: nobody listens there
    :raises WireError: the broker refuses the login or the vhost
    """

    def __init__(self, address: Address, timeout: float = 10) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout=timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timeout = timeout
        self._rest = b""
        #: Replies that `count_replies` has seen.
        self.replies = 0
        #: Highest publish that the broker has confirmed, once `confirm` was called.
        self.confirmed = 0
        #: Tag of the last delivery that `collect` has seen, and whether it was sent before.
        self.delivery_tag, self.redelivered = 0, False
        #: When what `collect` yields had arrived (`time.perf_counter`).
        self.arrived = 0.0
        self._frame_max = spec.FRAME_MAX_SIZE
        try:
            self._log_in(address)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; the broker cleans up behind it."""
        self._socket.close()

    def _log_in(self, address: Address) -> None:
        self._socket.sendall(frame.ProtocolHeader().marshal())
        self._expect(spec.Connection.Start)
        login = f"\0{address.user}\0{address.password}"
        self._send(0, spec.Connection.StartOk({}, "PLAIN", login, "en_US"))
        tune = self._expect(spec.Connection.Tune)
        self._frame_max = tune.frame_max or spec.FRAME_MAX_SIZE
        # Without heartbeats: nobody reads while a measurement is being set up.
        self._send(0, spec.Connection.TuneOk(tune.channel_max, self._frame_max, 0))
        self._send(0, spec.Connection.Open(address.vhost))
        self._expect(spec.Connection.OpenOk)
        self._send(1, spec.Channel.Open())
        self._expect(spec.Channel.OpenOk)

    # ---- methods

    def declare(
        self,
        queue: str,
        *,
        durable: bool = False,
        arguments: Mapping[str, Any] | None = None,
        passive: bool = False,
    ) -> tuple[int, int]:
        """Make a queue, or with `passive` look at it; returns its ready messages and its consumers."""
        self._send(1, spec.Queue.Declare(0, queue, passive, durable, arguments=arguments))
        found = self._expect(spec.Queue.DeclareOk)
        return found.message_count, found.consumer_count

    def bind(self, queue: str, exchange: str) -> None:
        """Have a queue get all that is published to a fanout exchange, which is made where it is missing."""
        self._send(1, spec.Exchange.Declare(0, exchange, "fanout"))
        self._expect(spec.Exchange.DeclareOk)
        self._send(1, spec.Queue.Bind(0, queue, exchange))
        self._expect(spec.Queue.BindOk)

    def delete(self, queue: str) -> None:
        """Remove a queue with all that is in it; well if there is none."""
        self._send(1, spec.Queue.Delete(0, queue))
        self._expect(spec.Queue.DeleteOk)

    def confirm(self) -> None:
        """Ask for confirms of every publish from now on; `collect` counts them."""
        self._send(1, spec.Confirm.Select())
        self._expect(spec.Confirm.SelectOk)

    def consume(self, queue: str, *, acknowledge: bool = False) -> None:
        """Have replies sent to us, acknowledged as they leave the broker, or else by `ack`."""
        self._send(1, spec.Basic.Consume(0, queue, TAG.decode(), no_ack=not acknowledge))
        self._expect(spec.Basic.ConsumeOk)

    def ack(self) -> None:
        """Acknowledge all that `collect` has seen."""
        self._send(1, spec.Basic.Ack(self.delivery_tag, multiple=True))

    def wait_for_consumers(self, queue: str, count: int, timeout: float) -> float:
        """Poll until a queue has that many consumers; returns when that was (`time.monotonic`).

        :raises WireError: it did not get them in time
        """
        deadline = time.monotonic() + timeout
        while self.declare(queue, passive=True)[1] < count:
            if time.monotonic() > deadline:
                raise WireError(f"{queue} has not got {count} consumers within {timeout:.0f} s")
            time.sleep(0.002)
        return time.monotonic()

    # ---- messages

    def publisher(self, queue: str, *, persistent: bool = False) -> Callable[[bytes], bytes]:
        """Makes of a body the frames that put it into `queue`."""
        publish = frame.Method(1, spec.Basic.Publish(0, "", queue)).marshal()
        properties = _PERSISTENT if persistent else _PLAIN
        head = struct.Struct(">BHLHHQ").pack
        most = self._frame_max - 8

        def frames(body: bytes) -> bytes:
            size = len(body)
            header = head(2, 1, 12 + len(properties), 60, 0, size) + properties + b"\xce"
            if size <= most:
                length = size.to_bytes(4, "big")
                return b"%b%b\x03\x00\x01%b%b\xce" % (publish, header, length, body)
            pieces = [body[start : start + most] for start in range(0, size, most)]
            return publish + header + b"".join(frame.Body(1, piece).marshal() for piece in pieces)

        return frames

    def fill(self, queue: str, bodies: Iterable[bytes], *, consumed: bool = False) -> int:
        """Put requests into a queue and wait until they are ready there; returns how many.

        :param consumed: somebody takes them already, so don't wait
        """
        frames = self.publisher(queue)
        count = size = 0
        burst: list[bytes] = []
        self._socket.settimeout(120)
        for body in bodies:
            burst.append(frames(body))
            count += 1
            size += len(burst[-1])
            if size > _BURST:
                self._socket.sendall(b"".join(burst))
                burst, size = [], 0
        self._socket.sendall(b"".join(burst))
        deadline = time.monotonic() + 120
        while self.declare(queue, passive=True)[0] < count and not consumed:
            if time.monotonic() > deadline:
                raise WireError(f"{queue} has not got its {count} messages within 120 s")
            time.sleep(0.02)
        self._socket.settimeout(self._timeout)
        return count

    def send(self, data: bytes) -> None:
        """Send frames that a `publisher` made."""
        self._socket.sendall(data)

    def count_replies(self, wanted: int, deadline: float) -> int:
        """Read until `replies` has reached `wanted` or `time.monotonic` the deadline.

        Afterwards the connection is good for nothing else: the stream is cut anywhere.
        """
        while self.replies < wanted and (data := self._read(deadline)):
            data = self._rest + data
            self.replies += data.count(_DELIVER)
            # The head of a delivery may have been cut in two: look at the end again.
            keep = max(0, len(data) - len(_DELIVER) + 1)
            self._rest = data[keep:]
        return self.replies

    def collect(self, deadline: float) -> Iterator[bytes]:
        """Ids of the replies that have arrived, waiting for the first until the deadline.

        Takes confirms as well. Can't be mixed with `count_replies` on one connection.
        """
        data = self._rest + self._read(deadline)
        self.arrived = time.perf_counter()
        position, end = 0, len(data)
        while position + 8 <= end:
            kind, _, size = _unpack_prefix(data, position)
            stop = position + 8 + size
            if stop > end:
                break
            if kind == 3:
                yield _reply_id(data[position + 7 : stop - 1])
            elif kind == 1:
                self._notice(data[position + 7 : stop - 1])
            position = stop
        self._rest = data[position:]

    def _notice(self, payload: bytes) -> None:
        method = payload[:4]
        if payload.startswith(_DELIVER):
            start = len(_DELIVER)
            self.delivery_tag = int.from_bytes(payload[start : start + 8], "big")
            self.redelivered = bool(payload[start + 8])
        elif method == _ACK:
            self.confirmed = max(self.confirmed, int.from_bytes(payload[4:12], "big"))
        elif method in _CLOSE:
            reason = payload[7 : 7 + payload[6]].decode("utf-8", "replace")
            raise WireError(f"the broker closes: {reason}")

    # ---- frames

    def _send(self, channel: int, method: Any) -> None:
        self._socket.sendall(frame.Method(channel, method).marshal())

    def _read(self, deadline: float) -> bytes:
        """What has arrived; empty once the deadline (`time.monotonic`) has passed."""
        left = deadline - time.monotonic()
        if not select.select([self._socket], [], [], max(0.0, left))[0]:
            return b""
        data = self._socket.recv(_CHUNK)
        if not data:
            raise WireError("the broker has closed the connection")
        return data

    def _expect(self, kind: type) -> Any:
        """The next method of that kind; others, and replies, are passed over."""
        deadline = time.monotonic() + self._timeout
        while True:
            used, found = frame.decode_frame(self._rest)
            if found is None:
                data = self._read(deadline)
                if not data:
                    raise WireError(f"no {kind.__name__} from the broker in {self._timeout:.0f} s")
                self._rest += data
                continue
            self._rest = self._rest[used:]
            method = getattr(found, "method", None)
            if isinstance(method, kind):
                return method
            if isinstance(method, (spec.Channel.Close, spec.Connection.Close)):
                raise WireError(f"the broker refuses: {method.reply_code} {method.reply_text}")


def _reply_id(body: bytes) -> bytes:
    """The ``message_id`` in a reply in Neon's form."""
    text = a2b_base64(body)
    start = text.rindex(_MESSAGE_ID) + len(_MESSAGE_ID)
    return text[start : start + 32]
