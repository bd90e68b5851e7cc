"""The asking side: one request, one reply."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import pika

from ... import config as configuration
from ...client import Client
from ...connection import Connection
from ...connection.address import parameters
from ...errors import ConfigurationError, MQError, PublishError, StartError
from ..connector import MQConnector
from .connection_utils import SuppressPikaLogging

_log = logging.getLogger(__name__)

#: Key under ``users`` of the credentials that Neon's clients share.
CLIENT_USER = "mq_handler"
#: Seconds between two attempts to reach a service whose queue isn't there yet.
_PAUSE = 0.1
#: Seconds for which Neon's clients let a request wait that nobody answers.
_EXPIRATION = 1.0


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
) -> dict[Any, Any]:
    """Send a request to a service and wait for its reply, as ``neon_mq_connector`` does.

    :param response_queue: name of the reply queue, which others may share; by default a new one, gone
        afterwards
    :param timeout: seconds; a service that comes up within them is reached
    :returns: the reply; an empty dict when none came in time or none was expected
    :raises ValueError: the broker refuses this user on this vhost
    :raises ConfigurationError: there are no credentials for ``mq_handler``
    """
    settings = configuration.load(CLIENT_USER)
    connection = Connection(
        parameters(settings, vhost if vhost.startswith("/") else f"/{vhost}", CLIENT_USER)
    )
    deadline = time.monotonic() + (timeout if expect_response else min(timeout, _EXPIRATION))
    with Client(
        connection, response_queue, exclusive=False, shared=response_queue is not None
    ) as client:
        while True:
            remaining = max(0.0, deadline - time.monotonic())
            try:
                if expect_response:
                    return client.request(target_queue, request_data, remaining)
                client.send(target_queue, request_data, timeout)
                return {}
            except StartError as error:
                raise ValueError(str(error)) from None
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
