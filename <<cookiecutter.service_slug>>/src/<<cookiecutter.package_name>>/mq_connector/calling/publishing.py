"""Publishes over a service's own connection, and makes the exchanges that are its to make."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from ..connection import Connection
from ..connection.broker import ACCESS_REFUSED, NOT_FOUND
from ..connection.link import Link
from ..connection.scratch import Result, Scratch
from ..errors import NotConnected, PublishError, provisioned
from ..publisher import Publisher
from ..topology import KINDS, Subscription
from .message import Publication
from .service import Service, pairs

#: Seconds for the broker to make an exchange.
_MADE_WITHIN = 30.0


class Publishing:
    """The publisher of a service, made when it is first needed.

    :param service: whose connection it shares
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        # Guards both below.
        self._lock = threading.Lock()
        self._publisher: Publisher | None = None
        self._is_closed = False
        #: For the loop: where exchanges are made, on the link that there is.
        self._scratch: tuple[Link, Scratch] | None = None

    def publish(self, message: Publication, timeout: float) -> None:
        """Publish, and wait for the confirm.

        :param timeout: seconds for all of it
        """
        deadline = time.monotonic() + timeout
        try:
            self._confirmed(message, deadline, timeout)
        except PublishError as error:
            self.make(message.exchange, error)
            self._confirmed(message, deadline, timeout)

    def send(self, message: Publication, timeout: float) -> Future[None]:
        """Publish; the future is done with the broker's confirm, see `mq_connector.publisher.Publisher.publish`.

        :param timeout: seconds to wait for room
        """
        return self._opened().publish(
            message.exchange,
            message.routing_key,
            message.body,
            message.properties,
            mandatory=not message.exchange,
            timeout=timeout,
        )

    @property
    def is_full(self) -> bool:
        """Whether `send` would wait for others to be confirmed."""
        return self._opened().is_full

    def unconfirmed(self, timeout: float) -> NotConnected:
        """What it means that no confirm has come within these seconds."""
        reason = self._opened().connection.last_error
        return NotConnected(reason or f"no confirm from the broker within {timeout:g} s")

    def make(self, exchange: str, error: PublishError) -> None:
        """Make an exchange that was missing.

        :param error: how the broker has refused a message to it
        :raises PublishError: the same, if that wasn't the reason, or the exchange isn't ours to make
        """
        code = str(error).partition(" ")[0]
        kind = pairs(self._service.publishes, KINDS[0]).get(exchange)
        try:
            if not exchange or code not in (str(NOT_FOUND), str(ACCESS_REFUSED)):
                raise error
            if kind is None:
                raise PublishError(
                    f"{error}; name {exchange!r} in `publishes` of the class, then {provisioned()}"
                ) from None
            if code == str(ACCESS_REFUSED):
                raise PublishError(f"{error}; {provisioned()}") from None
        finally:
            del error  # whose traceback has this frame
        made = Result()
        connection = self._opened().connection
        connection.call(lambda: self._make(connection, Subscription.made(exchange, kind), made))
        made.wait(_MADE_WITHIN)

    def close(self) -> None:
        """Wait for the confirms, and leave the connection."""
        with self._lock:
            self._is_closed = True
            publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()

    def _confirmed(self, message: Publication, deadline: float, timeout: float) -> None:
        sent = self.send(message, max(0.0, deadline - time.monotonic()))
        try:
            sent.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError:
            raise self.unconfirmed(timeout) from None
        finally:
            del sent  # with its error, whose traceback has this frame

    def _opened(self) -> Publisher:
        with self._lock:
            if self._is_closed:
                raise NotConnected("the service has been stopped, so it publishes nothing any more")
            if self._publisher is None:
                self._publisher = Publisher(self._service._mq_connection(self._service.vhost))
            return self._publisher

    def _make(self, connection: Connection, exchange: Subscription, made: Result) -> None:
        link = connection.link
        if link is None or not link.is_open:
            made.set(None, NotConnected(connection.last_error or "the connection was lost"))
            return
        if self._scratch is None or self._scratch[0] is not link:
            self._scratch = link, Scratch(link)
        self._scratch[1].run(exchange.make(), made.set)
