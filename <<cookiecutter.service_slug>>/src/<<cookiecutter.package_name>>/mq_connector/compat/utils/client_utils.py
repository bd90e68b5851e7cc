"""The asking side: one request, one reply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import pika

from ... import config as configuration
from ...calling.asking import remedy
from ...calling.service import Service, only_one, reply_queue
from ...client import Client
from ...config import neon
from ...config.files import users
from ...config.settings import DEFAULT_PORT, DEFAULT_SERVER
from ...connection import Connection
from ...connection.address import parameters
from ...errors import ConfigurationError, MQError, PayloadError, PublishError, StartError
from ...logs import Logger
from ...payload.request import message_ids
from ..connector import MQConnector
from .connection_utils import SuppressPikaLogging

_log = Logger(__name__)

#: Key under ``users`` of the credentials that Neon's clients share.
CLIENT_USER = "mq_handler"
#: Seconds between two attempts to reach a service whose queue isn't there yet.
_PAUSE = 0.1
#: Seconds for which Neon's clients let a request wait that nobody answers.
_EXPIRATION = 1.0
#: Seconds that a stream's callback gets at least for the last part.
_LAST_PART_WITHIN = 1.0

#: Set by programs that have their configuration from elsewhere. Of the incumbent's shape, but without
#: its public server: as long as it names no user, it counts for nothing.
_default_mq_config: dict[str, Any] | None = {
    "server": DEFAULT_SERVER,
    "port": DEFAULT_PORT,
    "users": {CLIENT_USER: {}},
}


class NeonMQHandler(MQConnector):
    """A connector with an open connection, for requests to one vhost.

    :raises pika.exceptions.AMQPError: there is no such connection
    """

    async_consumers_enabled = False

    def __init__(self, config: Mapping[str, Any] | None, service_name: str, vhost: str) -> None:
        super().__init__(config, service_name)
        self.vhost = vhost
        self.connection = pika.BlockingConnection(self.all_connection_params(vhost))

    def shutdown(self) -> None:
        """Stop the consumers and close the connection."""
        self.stop()
        with SuppressPikaLogging():
            if self.connection.is_open:
                self.connection.close()


def send_mq_request(
    vhost: str,
    request_data: Mapping[Any, Any],
    target_queue: str,
    response_queue: str | None = None,
    timeout: float = 30,
    expect_response: bool = True,
    stream_callback: Callable[[dict[Any, Any]], Any] | None = None,
) -> dict[Any, Any]:
    """Send a request to a service and wait for its reply, as ``neon_mq_connector`` does.

    :param response_queue: name of the reply queue, which others may share; by default a new one, gone
        afterwards
    :param timeout: seconds; a service that comes up within them is reached
    :param stream_callback: called, on another thread, with each part of a streamed reply, the last one
        (``is_final``) included; before this function returns, unless it takes longer than the time-out
    :returns: the reply; an empty dict when none came in time, none was expected, or what came can't be
        read
    :raises ValueError: the broker refuses this user on this vhost
    :raises ConfigurationError: there are no credentials for ``mq_handler``, nor a service in this process
        whose own would do

    In a service, `MQConnector.ask` does the same over the connection that there is.
    """
    where = vhost if vhost.startswith("/") else f"/{vhost}"
    settings, service = _login()
    own_queue = None if service is None else reply_queue(service)
    deadline = time.monotonic() + (timeout if expect_response else min(timeout, _EXPIRATION))
    with (
        _Parts(stream_callback, deadline) as parts,
        _StreamClient(
            Connection(parameters(settings, where, CLIENT_USER)),
            response_queue or own_queue,
            response_queue is not None,
            parts.take,
        ) as client,
    ):
        while True:
            remaining = max(0.0, deadline - time.monotonic())
            try:
                if expect_response:
                    return client.request(target_queue, request_data, remaining)
                client.send(target_queue, request_data, timeout)
                return {}
            except StartError as error:
                other = service is not None and where != service.vhost
                what_to_do = f"; {remedy(target_queue, where)}" if other else ""
                raise ValueError(f"{error}{what_to_do}") from None
            except ConfigurationError:
                raise
            except PublishError as error:
                if remaining <= _PAUSE:
                    _log.error("%s", error)
                    return {}
                time.sleep(_PAUSE)
            except MQError as error:
                _log.error("%s", error)
                return {}


def _login() -> tuple[configuration.Settings, Service | None]:
    """Log in as the clients' user or, where there is none, as the service that this process is.

    :returns: the settings, and the service if it is its user: that may have reply queues of certain names only
    :raises ConfigurationError: there are neither's credentials
    """
    service = only_one()
    try:
        settings = _settings()
    except ConfigurationError:
        if service is None:
            raise
        return service.settings(), service
    with suppress(ConfigurationError):
        if service is not None and service.settings().username == settings.username:
            return settings, service
    return settings, None


def _settings() -> configuration.Settings:
    """Settings of the clients' user, in the incumbent's order: from Neon's own configuration, then from
    `_default_mq_config`, which also completes the former, else from where every user's are looked for.

    :raises ConfigurationError: there are none
    """
    default = configuration.unwrap(_default_mq_config or {})
    user = users(default).get(CLIENT_USER)
    if not user:
        return configuration.load(CLIENT_USER)
    found = neon.read(configuration.environment())
    config = found[0] if found else default
    user = users(config).get(CLIENT_USER) or user
    return configuration.load(CLIENT_USER, {**config, "users": {CLIENT_USER: user}})


class _Parts:
    """Hands the parts of a reply to a callback, in a thread of its own: that of the connection can't wait for it.

    :param deadline: until when its end waits for what is still to be handed over
    """

    def __init__(self, callback: Callable[[dict[Any, Any]], Any] | None, deadline: float) -> None:
        self._callback = callback
        self._deadline = deadline
        self._parts: SimpleQueue[dict[Any, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mq-parts", daemon=True)

    def __enter__(self) -> _Parts:
        if self._callback is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._callback is not None:
            self._parts.put(None)
            self._thread.join(max(_LAST_PART_WITHIN, self._deadline - time.monotonic()))

    def take(self, part: dict[Any, Any]) -> None:
        """Hand this one over, when the earlier ones have been taken."""
        if self._callback is not None:
            self._parts.put(part)

    def _run(self) -> None:
        while (part := self._parts.get()) is not None:
            try:
                assert self._callback is not None
                self._callback(part)
            except Exception:
                _log.exception("what was to be told of a part of a reply has failed")


class _StreamClient(Client):
    """A client for one request that hears of every part of the reply, and gives up on one that can't be
    read, as no better one will come.

    :param shared: whether the queue is somebody else's, too
    :param on_part: called, on the connection's loop, with each part
    """

    def __init__(
        self,
        connection: Connection,
        reply_queue: str | None,
        shared: bool,
        on_part: Callable[[dict[Any, Any]], None],
    ) -> None:
        super().__init__(connection, reply_queue, exclusive=False, shared=shared)
        self._on_part = on_part

    def on_reply(self, reply: dict[Any, Any]) -> bool:
        """A part of the reply has come, the last one or another."""
        if any(each in self._requests for each in message_ids(reply)):
            self._on_part(reply)
        return super().on_reply(reply)

    def on_unreadable(self, error: PayloadError) -> bool:
        """Take a reply that can't be read for an empty answer."""
        _log.error("a reply that can't be read: %s", error)
        for message_id in self._requests.ids():
            self._requests.end(message_id, {})
        return True
