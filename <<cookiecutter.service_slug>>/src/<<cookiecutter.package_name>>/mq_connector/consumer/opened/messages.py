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
    """A message to be published, and where to."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties | None = None
    mandatory: bool = False

    def kept(self) -> Message:
        """A copy for later, with the properties (tables in headers included) as they are now."""
        return self._replace(properties=copy.deepcopy(self.properties))


class Prefetch(NamedTuple):
    """The prefetch that a handler wants; 0 for the best one."""

    messages: int


class Confirms:
    """The confirms that are pending for one delivery, and what waits for them.

    :param call: runs a function on the loop of the consumer's connection, on which everything that waits is
        called, in order
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
        """Note another publish that has to be confirmed."""
        with self._lock:
            self._pending += 1

    def outcome(self, error: Exception | None) -> None:
        """Note that one was confirmed, or refused."""
        with self._lock:
            self._pending -= 1
            self._error = self._error or error
        self._call(self._run)

    def then(self, confirmed: Callable[[], object], refused: Callable[[Exception], object]) -> None:
        """Call the first when all publishes noted so far are confirmed, or the second when one was refused."""
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
    """A delivered message.

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
