"""What differs between generations of RabbitMQ, and the reply codes by which every one of them says no.

Reply codes: AMQP 0-9-1, section 1.2, and what RabbitMQ adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pika import exceptions

from .refusals import causes_of

_SUCCESS = 200
#: The broker is shutting down, or an operator has closed the connection.
CONNECTION_FORCED = 320
#: No permission.
ACCESS_REFUSED = 403
#: No such queue or exchange.
NOT_FOUND = 404
#: The queue belongs exclusively to another connection.
RESOURCE_LOCKED = 405
#: It exists otherwise than declared; or a message that the broker can't take, or wasn't settled in time.
PRECONDITION_FAILED = 406
#: The connection has as many channels as it may have (also: there is no such vhost).
NOT_ALLOWED = 530
#: Stands for "no answer", as the connection or the channel was lost before there was one.
UNANSWERED = 504
#: What RabbitMQ 4.3 answers, closing the connection, to a transient queue where those are denied.
INTERNAL_ERROR = 541


def is_our_doing(loss: BaseException) -> bool:
    """Whether what was sent or received may have cost a connection, and would cost the next one.

    Not so where the network failed, the broker went down, or an operator closed the connection.
    """
    causes = list(causes_of(loss))
    for cause in causes:
        if isinstance(cause, exceptions.ConnectionClosedByBroker):
            return cause.reply_code not in (CONNECTION_FORCED, _SUCCESS)
        if isinstance(cause, (exceptions.ConnectionClosed, exceptions.AMQPHeartbeatTimeout)):
            return False
    # A stream that can't be read is wrapped in a loss of the connection.
    return not all(isinstance(each, (OSError, exceptions.AMQPConnectionError)) for each in causes)


def is_late(closed: exceptions.ChannelClosed) -> bool:
    """Whether a channel was closed because a message wasn't settled in time (``consumer_timeout``)."""
    return closed.reply_code == PRECONDITION_FAILED and "timed out" in closed.reply_text


def is_refused_publish(closed: exceptions.ChannelClosed) -> bool:
    """Whether a channel was closed because of what was published on it, as far as the broker says so."""
    if closed.reply_code in (ACCESS_REFUSED, NOT_FOUND):
        return "exchange" in closed.reply_text
    return closed.reply_code == PRECONDITION_FAILED and "delivery tag" not in closed.reply_text


class Broker(NamedTuple):
    """The broker at the other end of a connection."""

    #: Its version as numbers, (0,) where it doesn't say.
    version: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, server_properties: Mapping[str, Any] | None) -> Broker:
        """:param server_properties: as in ``connection.start`` (AMQP 0-9-1, 1.4.2.1)"""
        version = str((server_properties or {}).get("version", "0")).split("-")[0].split("+")[0]
        return cls(tuple(int(part) for part in version.split(".") if part.isdigit()) or (0,))

    @property
    def may_relax(self) -> bool:
        """Whether a quorum queue can be made to tolerate a legacy re-declaration."""
        return self.version >= (4,)

    @property
    def may_deny_transient(self) -> bool:
        """Whether declaring a transient queue may cost the connection."""
        return self.version >= (4, 3)

    @property
    def fears_reply_to(self) -> bool:
        """Whether publishing to a forged address of direct reply-to may cost the connection (541)."""
        return self.version < (4, 3)

    @property
    def cancels_late(self) -> bool:
        """Whether a consumer that doesn't settle in time is cancelled; before, its channel is closed."""
        return self.version >= (4, 3)
