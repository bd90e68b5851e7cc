"""The methods by which a service asks and publishes; it inherits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .caller import CONFIRMED_WITHIN, Caller


class Calling:
    """Part of `mq_connector.connector.MQConnector`."""

    #: Exchanges that the service publishes to: names (of fanout exchanges), or pairs of a name and ``fanout``,
    #: ``direct`` or ``topic``. `rabbitmq/provision.py` gives the permissions, and `publish` makes those that are missing.
    publishes: ClassVar[Sequence[str | tuple[str, str]]] = ()
    #: Queues of other services that it asks: names or, for those in other virtual hosts, pairs of a queue and a vhost.
    calls: ClassVar[Sequence[str | tuple[str, str]]] = ()

    _mq_caller: Caller

    def ask(
        self,
        queue: str,
        request: Mapping[Any, Any],
        vhost: str | None = None,
        timeout: float | None = None,
    ) -> dict[Any, Any]:
        """Ask another service, and wait for its reply.

        In a handler, it waits no longer than the handler's own client does, as far as that is known by its
        request's expiration. The id of the request that is being handled goes along as ``correlation_id``, and its
        ``traceparent``.

        :param queue: the other service's input queue
        :param request: gets a ``message_id``, if it has none
        :param vhost: by default the one that `calls` names with the queue, else the service's own
        :param timeout: seconds; by default what the handler's client has left, or 30
        :returns: the reply, also one that says ``"success": False``
        :raises Unroutable: there is no such queue
        :raises RequestTimeout: no reply in time
        :raises WouldWait: called on an event loop, or on a connection's own thread
        :raises PublishError: the request can't be sent
        :raises StartError: the broker refuses the login, the vhost or the reply queue
        :raises NotConnected: the service has been stopped
        """
        return self._mq_caller.ask(queue, request, vhost, timeout)

    async def ask_async(
        self,
        queue: str,
        request: Mapping[Any, Any],
        vhost: str | None = None,
        timeout: float | None = None,
    ) -> dict[Any, Any]:
        """As `ask` for an ``async`` handler: other tasks of its event loop go on meanwhile."""
        return await self._mq_caller.ask_async(queue, request, vhost, timeout)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Mapping[Any, Any] | bytes,
        timeout: float = CONFIRMED_WITHIN,
    ) -> None:
        """Publish a message on the service's own virtual host; returns when the broker has confirmed it.

        :param exchange: made if it is missing and `publishes` names it. That no queue is bound to it is no error;
            ``""`` sends to the queue that the routing key names
        :param message: gets a ``message_id``, if it has none; bytes are sent as they are
        :param timeout: seconds to wait for the confirm
        :raises Unroutable: there is no such queue
        :raises PublishError: the broker hasn't taken it
        :raises WouldWait: called on an event loop, or on a connection's own thread
        :raises StartError: the broker refuses the login or the vhost
        :raises NotConnected: there is no connection, or the service has been stopped
        """
        self._mq_caller.publish(exchange, routing_key, message, timeout)

    async def publish_async(
        self,
        exchange: str,
        routing_key: str,
        message: Mapping[Any, Any] | bytes,
        timeout: float = CONFIRMED_WITHIN,
    ) -> None:
        """As `publish` for an ``async`` handler: other tasks of its event loop go on meanwhile."""
        await self._mq_caller.publish_async(exchange, routing_key, message, timeout)
