"""Asks and publishes for a service, from threads that may wait and from event loops that may not."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import WouldWait
from .message import Publication
from .service import Service, enlist

if TYPE_CHECKING:
    from .asking import Asking
    from .publishing import Publishing

#: Seconds for the broker to take what is published, connecting included.
CONFIRMED_WITHIN = 30.0


class Caller:
    """What `mq_connector.calling.words.Calling` does; its methods are those of that class.

    :param service: over whose connections it asks and publishes
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        # Guards that there is one of each, and that both are closed once we are.
        self._lock = threading.Lock()
        self._is_closed = False
        self._asking: Asking | None = None
        self._publishing: Publishing | None = None
        enlist(service)

    # Most services neither ask nor publish: they don't load what that takes.

    @property
    def asking(self) -> Asking:
        """What waits for replies."""
        with self._lock:
            if self._asking is None:
                from .asking import Asking

                self._asking = Asking(self._service)
                if self._is_closed:
                    self._asking.close()
            return self._asking

    @property
    def publishing(self) -> Publishing:
        """What waits for confirms."""
        with self._lock:
            if self._publishing is None:
                from .publishing import Publishing

                self._publishing = Publishing(self._service)
                if self._is_closed:
                    self._publishing.close()
            return self._publishing

    def ask(
        self, queue: str, request: Mapping[Any, Any], vhost: str | None, timeout: float | None
    ) -> dict[Any, Any]:
        """Ask, and wait for the reply; parameters and errors as of `mq_connector.calling.words.Calling.ask`."""
        self._check_wait("ask")
        return self.asking.end(self.asking.begin(queue, request, vhost, timeout))

    async def ask_async(
        self, queue: str, request: Mapping[Any, Any], vhost: str | None, timeout: float | None
    ) -> dict[Any, Any]:
        """As `ask`, without a thread that waits."""
        from .on_loop import ask  # which imports asyncio, and that takes 60 ms

        return await ask(self.asking, queue, request, vhost, timeout)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Mapping[Any, Any] | bytes,
        timeout: float,
    ) -> None:
        """Publish, and wait for the broker's confirm, as `mq_connector.calling.words.Calling.publish`."""
        self._check_wait("publish")
        self.publishing.publish(Publication.of(exchange, routing_key, message), timeout)

    async def publish_async(
        self,
        exchange: str,
        routing_key: str,
        message: Mapping[Any, Any] | bytes,
        timeout: float,
    ) -> None:
        """As `publish`, without a thread that waits."""
        from .on_loop import publish

        await publish(self.publishing, Publication.of(exchange, routing_key, message), timeout)

    def close(self) -> None:
        """Leave the connections."""
        with self._lock:
            self._is_closed = True
        for used in (self._asking, self._publishing):
            if used is not None:
                used.close()

    def _check_wait(self, name: str) -> None:
        """:raises WouldWait: whatever is waited for could not come"""
        if self._service._mq_is_on_loop():
            raise WouldWait(name, "a connection's own thread", "call it in a handler or a thread")
        asyncio = sys.modules.get("asyncio")  # who runs an event loop has imported it
        if asyncio is not None and asyncio._get_running_loop() is not None:
            raise WouldWait(name, "an event loop", f"use `await self.{name}_async(…)`")
