"""What a connector of Neon's sends."""

from __future__ import annotations

import functools
import time
import uuid
import weakref
from collections.abc import Mapping
from typing import Any

import pika
from pika.exceptions import AMQPError
from pika.exchange_type import ExchangeType

from ..connection import Connection
from ..connection.address import Address
from ..errors import MQError, StartError
from ..logs import Logger
from .configured import ConfiguredConnector
from .sending import Message, Senders, emit

_log = Logger(__name__)


class MessagingConnector(ConfiguredConnector):
    """A connector that sends messages, over connections of its own or its caller's.

    :param config: as in ``mq_config.json``; by default it is looked for
    :param service_name: key of the service's credentials under ``users``
    """

    def __init__(self, config: Mapping[str, Any] | None, service_name: str) -> None:
        super().__init__(config, service_name)
        self._mq_senders = Senders()
        weakref.finalize(self, self._mq_senders.close)

    @staticmethod
    def create_unique_id() -> str:
        """A new UUID, as 32 hexadecimal digits."""
        return uuid.uuid4().hex

    @classmethod
    def emit_mq_message(
        cls,
        connection: pika.BlockingConnection | pika.SelectConnection | Connection,
        request_data: Mapping[Any, Any],
        exchange: str | None = "",
        queue: str | None = "",
        exchange_type: str | ExchangeType = ExchangeType.direct,
        expiration: int = 1000,
    ) -> str:
        """Send a message over a connection that is open; the queue is made where it is missing.

        :param request_data: isn't changed
        :param expiration: milliseconds
        :returns: the message's id: its ``message_id``, that of its ``context.mq``, or a new one
        :raises TypeError: ``request_data`` isn't a dict
        :raises ValueError: ``request_data`` is empty
        """
        message = Message.make(
            request_data,
            exchange=exchange or "",
            queue=queue or "",
            exchange_type=exchange_type,
            expiration=expiration,
        )
        emit(connection, message)
        sent: str = message.id  # or what else the caller has for an id
        return sent

    @classmethod
    def publish_message(
        cls,
        connection: pika.BlockingConnection | pika.SelectConnection | Connection,
        request_data: Mapping[Any, Any],
        exchange: str | None = "",
        expiration: int = 1000,
    ) -> str:
        """As `emit_mq_message`, to all subscribers of an exchange."""
        return cls.emit_mq_message(
            connection=connection,
            request_data=request_data,
            exchange=exchange,
            queue="",
            exchange_type=ExchangeType.fanout.value,
            expiration=expiration,
        )

    def send_message(
        self,
        request_data: Mapping[Any, Any],
        vhost: str = "",
        connection_props: Mapping[str, Any] | None = None,
        exchange: str | None = "",
        queue: str | None = "",
        exchange_type: str | ExchangeType = ExchangeType.direct,
        expiration: int = 1000,
    ) -> str:
        """Send a message over a connection that this connector keeps; other parameters as of `emit_mq_message`.

        :param vhost: by default the service's own
        :param connection_props: as for `get_connection_params`
        :returns: the message's id, when the broker has taken it
        :raises PublishError: the broker hasn't taken it
        :raises NotConnected: there is no connection
        :raises StartError: the broker refuses us
        """
        fanout = getattr(exchange_type, "value", exchange_type) == ExchangeType.fanout.value
        if self._mq_overrides("emit_mq_message") or (
            fanout and self._mq_overrides("publish_message")
        ):
            with self.create_mq_connection(vhost or self.vhost, **connection_props or {}) as opened:
                return self._mq_send_over(
                    opened, request_data, fanout, exchange, queue, exchange_type, expiration
                )
        message = Message.make(
            request_data,
            exchange=exchange or "",
            queue="" if fanout else queue or "",
            exchange_type=exchange_type,
            expiration=expiration,
        )
        self._mq_send(message, vhost or self.vhost, connection_props or {})
        sent: str = message.id  # or what else the caller has for an id
        return sent

    def sync(
        self,
        vhost: str | None = None,
        exchange: str | None = None,
        queue: str | None = None,
        request_data: Mapping[Any, Any] | None = None,
    ) -> None:
        """Tell whoever listens that this service lives; called every `sync_period` seconds.

        :param vhost: by default the service's own
        :param exchange: by default none: the message goes to the queue, if somebody has made it
        :param queue: by default the service's name; ``_sync`` is added to it
        :param request_data: by default ``service_id`` and ``time`` (seconds since 1970)
        """
        data = request_data or {"service_id": self.service_id, "time": int(time.time())}
        try:
            if self._mq_overrides("publish_message") or self._mq_overrides("emit_mq_message"):
                with self.create_mq_connection(vhost or self.vhost) as opened:
                    self.publish_message(opened, exchange=exchange or "", request_data=data)
                return
            message = Message.make(
                data,
                exchange=exchange or "",
                queue=f"{queue or self.service_name}_sync",
                exchange_type=ExchangeType.fanout.value,
            )
            self._mq_send(message.unbound(), vhost or self.vhost, {}, make=False)
        except (MQError, AMQPError) as error:
            _log.warning("no sign of life sent: %s", error)

    def _mq_overrides(self, name: str) -> bool:
        """Whether a subclass, or whoever has this instance, has put another method in the place of ours.

        Then that is called, with a connection that is opened for the one message, as by the incumbent.
        """
        method = getattr(self, name)
        own = getattr(MessagingConnector, name)
        return getattr(method, "__func__", method) is not getattr(own, "__func__", own)

    def _mq_send_over(
        self,
        connection: pika.BlockingConnection,
        request_data: Mapping[Any, Any],
        fanout: bool,
        exchange: str | None,
        queue: str | None,
        exchange_type: str | ExchangeType,
        expiration: int,
    ) -> str:
        # By position and by keyword as the incumbent calls them.
        where: dict[str, Any] = {"exchange": exchange, "expiration": expiration}
        if fanout:
            return self.publish_message(connection=connection, request_data=request_data, **where)
        where |= {"queue": queue, "exchange_type": exchange_type}
        return self.emit_mq_message(connection, request_data=request_data, **where)

    def _mq_send(
        self, message: Message, vhost: str, options: Mapping[str, Any], make: bool = True
    ) -> None:
        key = (vhost, repr(sorted(options.items())))
        parameters = functools.partial(self.all_connection_params, vhost, **options)
        sender = self._mq_senders.get(key, lambda: Connection(Address(parameters)))
        try:
            sender.send(message, make)
        except StartError:
            self._mq_senders.forget(key)
            raise
