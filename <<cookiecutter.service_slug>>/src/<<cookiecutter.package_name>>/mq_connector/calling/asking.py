"""Asks over a service's own connections: one client for each virtual host, made when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..channels.pending import Pending
from ..client import Client
from ..errors import NotConnected, RequestTimeout, StartError, provisioned
from .message import origin, question, time_for
from .service import Service, pairs, reply_queue


def remedy(queue: str, vhost: str) -> str:
    """What to do where a service may not ask in another virtual host."""
    return (
        f"name the queue with its vhost in `calls` of the class, as {(queue, vhost)!r}, then "
        f"{provisioned()}"
    )


class Asked(NamedTuple):
    """A request that waits for its reply."""

    vhost: str
    client: Client
    pending: Pending


class Asking:
    """The clients of a service.

    :param service: whose connections they share
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        # Guards both below.
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}
        self._is_closed = False

    def begin(
        self,
        queue: str,
        request: Mapping[Any, Any],
        vhost: str | None,
        timeout: float | None,
        on_end: Callable[[], object] = lambda: None,
    ) -> Asked:
        """Send a request; `end` has to follow. Parameters and errors otherwise as of
        `mq_connector.calling.words.Calling.ask`.

        :param on_end: called at its end, on whichever thread that comes about
        """
        where = self._vhost_of(queue, vhost)
        wait = time_for(queue, timeout)
        client = self._client(where)
        with self._explaining(where, queue, client):
            pending = client.begin(queue, question(request), wait, origin=origin(), on_end=on_end)
        return Asked(where, client, pending)

    def end(self, asked: Asked) -> dict[Any, Any]:
        """The reply; waits until it has come, or the time is over."""
        with self._explaining(asked.vhost, asked.pending.queue, asked.client):
            return asked.client.outcome(asked.pending)

    def close(self) -> None:
        """Leave the connections; who waits gets a `NotConnected`."""
        with self._lock:
            self._is_closed = True
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    def _vhost_of(self, queue: str, vhost: str | None) -> str:
        if vhost is None:
            vhost = pairs(self._service.calls, "").get(queue) or self._service.vhost
        return vhost if vhost.startswith("/") else f"/{vhost}"

    def _client(self, vhost: str) -> Client:
        with self._lock:
            if self._is_closed:
                raise NotConnected("the service has been stopped, so it asks nobody any more")
            if vhost not in self._clients:
                # Not exclusive, as Neon's services declare the queue that they reply to (405). What a killed
                # process leaves goes by a policy of rabbitmq/topology.py.
                name = reply_queue(self._service)
                connection = self._service._mq_connection(vhost)
                self._clients[vhost] = Client(connection, name, exclusive=False)
            return self._clients[vhost]

    @contextmanager
    def _explaining(self, vhost: str, queue: str, client: Client) -> Iterator[None]:
        """What a failure means here, and what is to be done."""
        own = vhost == self._service.vhost
        try:
            yield
        except StartError as error:
            with self._lock:
                if self._clients.get(vhost) is client:
                    del self._clients[vhost]  # it stays refused, and the next one may not be
            if own:
                raise
            raise StartError(f"{error}; {remedy(queue, vhost)}") from None
        except RequestTimeout as error:
            if own and any(each.queue == queue for each in self._service.consumers.values()):
                raise RequestTimeout(
                    f"{error}; this service consumes it itself: a worker that waits can't answer"
                ) from None
            raise
