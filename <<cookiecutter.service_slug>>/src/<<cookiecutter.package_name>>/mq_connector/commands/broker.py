"""How the commands get at the broker, and whether it takes messages at all."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika

from ..client import Client
from ..connection.scratch import Operation, Steps
from ..connection.session import Session
from ..errors import MQError, printable
from ..publisher import Publisher

if TYPE_CHECKING:
    from ..connector import MQConnector
    from ..consumer import ConsumerThread

#: Seconds that a broker gets to say why it hasn't answered before.
_SHORTLY = 3.0
#: What ends the name of a queue that is drawn anew by each process, such as a subscriber's.
_DRAWN = re.compile(r"[0-9a-f]{6,}$")


def session(service: MQConnector) -> Session:
    """A connection to the service's vhost for one operation after the other, not open yet."""
    return Session(service.connection_to(service.vhost))


def publisher(service: MQConnector) -> Publisher:
    """A connection to the service's vhost for messages."""
    return Publisher(service.connection_to(service.vhost))


def client(service: MQConnector, reply_queue: str) -> Client:
    """A connection to the service's vhost for requests."""
    return Client(service.connection_to(service.vhost), reply_queue)


def family(consumer: ConsumerThread) -> tuple[str, str]:
    """What the names have in common that a consumer's queue has in each process of the service.

    :returns: their beginning, and what a regular expression matches them with
    """
    drawn = _DRAWN.search(consumer.queue) if consumer.is_private else None
    if drawn is None:
        return consumer.queue, re.escape(consumer.queue)
    common = consumer.queue[: drawn.start()]
    return common, f"{re.escape(common)}[0-9a-f]{{{len(drawn[0])}}}"


def one(operation: Operation) -> Steps:
    """A course of a single operation."""
    return (yield operation)


def alarm(opened: Session) -> str:
    """Why the broker takes no messages, in its own words such as ``low on memory``; empty if it does.

    It says so only to a connection that publishes (``connection.blocked``), and then reads nothing
    more from it. So a message is published that no queue takes, and something behind it that is
    answered; of the two answers one comes. The session is of no further use where it is the first.

    :raises ChannelError: the user may not publish to the default exchange
    """
    words: list[str] = []

    def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
        def blocked(_connection: Any, frame: Any) -> None:
            words.append(str(frame.method.reason))
            done(None)

        opened.connection.amqp.add_on_connection_blocked_callback(blocked)
        channel.basic_publish("", f"nobody.{uuid.uuid4().hex}", b"")
        channel.basic_qos(callback=done)

    opened.run(one(operation))
    return printable(words[0]) if words else ""


def why_not(service: MQConnector) -> str:
    """Why a message may not have been taken, for a message that says so; empty where all seems well."""
    try:
        with Session(service.connection_to(service.vhost), _SHORTLY) as opened:
            words = alarm(opened)
    except MQError:
        return ""
    return f"; the broker takes no messages: {words}" if words else ""
