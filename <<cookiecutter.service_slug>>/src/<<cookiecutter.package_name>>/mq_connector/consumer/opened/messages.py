"""One message: on its way in, with what must be confirmed before it is settled, or on its way out."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pika
from pika.spec import Basic

if TYPE_CHECKING:
    from .channel import OpenedChannel


class Message(NamedTuple):
    """What is to be published, and where."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties | None = None
    mandatory: bool = False

    def kept(self) -> Message:
        """For later: with the properties as they are now, tables in its headers included, as they are the caller's."""
        return self._replace(properties=copy.deepcopy(self.properties))


class Prefetch(NamedTuple):
    """A handler wants that many messages to be sent ahead; 0 for as many as are best."""

    messages: int


class Confirms:
    """What was published for one delivery and must be confirmed first, and what has to wait for that.

    :param call: runs a function on the loop of the consumer's connection, where all that waits has its
        turn, in order
    """

    __slots__ = ("_call", "_error", "_lock", "_pending", "_waiting")

    def __init__(self, call: Callable[[Callable[[], object]], None]) -> None:
        self._call = call
        # Guards all below; nothing is called while it is held.
        self._lock = threading.Lock()
        self._pending = 0
        self._error: Exception | None = None
        self._waiting: deque[tuple[Callable[[], object], Callable[[Exception], object]]] = deque()

    def expect(self) -> None:
        """One more publish has to be confirmed."""
        with self._lock:
            self._pending += 1

    def outcome(self, error: Exception | None) -> None:
        """One is confirmed, or refused."""
        with self._lock:
            self._pending -= 1
            self._error = self._error or error
        self._call(self._run)

    def then(self, confirmed: Callable[[], object], refused: Callable[[Exception], object]) -> None:
        """Call one of the two when all that was expected so far is confirmed, or one of it was refused."""
        with self._lock:
            self._waiting.append((confirmed, refused))
        self._call(self._run)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or (self._pending and self._error is None):
                    return
                confirmed, refused = self._waiting.popleft()
                error = self._error
            if error is None:
                confirmed()
            else:
                refused(error)


class Delivery:
    """A message in hand.

    :ivar confirms: what its callback has published that has to be confirmed before it is acknowledged;
        None for most
    :ivar arrived: when it came (`time.monotonic`)
    """

    __slots__ = ("arrived", "body", "confirms", "method", "opened", "properties", "tag")

    def __init__(
        self,
        opened: OpenedChannel,
        method: Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        self.arrived = 0.0
        self.opened = opened
        self.method = method
        self.properties = properties
        self.body = body
        self.confirms: Confirms | None = None
        self.tag: int = method.delivery_tag  # type: ignore[assignment]  # what was delivered has one


def deliveries_before(delivery: Delivery) -> int | None:
    """How often the broker has delivered a message before, as far as its queue counts that.

    A header that a client has made up itself says nothing: the broker writes whole numbers from 0 on.
    """
    headers: Mapping[str, Any] = delivery.properties.headers or {}
    count = headers.get("x-delivery-count")
    if not isinstance(count, int) or isinstance(count, bool):
        return None
    return count if count >= 0 else None
