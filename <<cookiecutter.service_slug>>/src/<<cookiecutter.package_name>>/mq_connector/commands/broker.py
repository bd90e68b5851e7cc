"""How the commands get at the broker, and whether it takes messages at all."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pika

from ..client import Client
from ..connection import Connection, input_queue
from ..errors import MQError, printable
from ..publisher import Publisher
from .session import Session

if TYPE_CHECKING:
    from ..connector import MQConnector
    from ..consumer import ConsumerThread

#: Seconds that a broker gets to say why it hasn't answered before.
SHORTLY = 3.0
#: What ends the name of a queue that is drawn anew by each process, such as a subscriber's.
_DRAWN = re.compile(r"[0-9a-f]{6,}$")


def session(service: MQConnector) -> Session:
    """A connection to the service's vhost for one operation after the other, not open yet."""
    return Session(service.address())


def publisher(service: MQConnector) -> Publisher:
    """A connection to the service's vhost for messages."""
    return Publisher(Connection(service.address()))


def client(service: MQConnector, reply_queue: str) -> Client:
    """A connection to the service's vhost for requests."""
    return Client(Connection(service.address()), reply_queue)


def family(consumer: ConsumerThread) -> tuple[str, str]:
    """What the names have in common that a consumer's queue has in each process of the service.

    :returns: their beginning, and what a regular expression matches them with
    """
    drawn = _DRAWN.search(consumer.queue) if consumer.is_private else None
    if drawn is None:
        return consumer.queue, re.escape(consumer.queue)
    common = consumer.queue[: drawn.start()]
    return common, f"{re.escape(common)}[0-9a-f]{{{len(drawn[0])}}}"


def alarm(service: MQConnector) -> str:
    """What keeps the broker from taking messages, for a person; empty if it takes them.

    With a resource alarm in force (of memory or disk), RabbitMQ says so only to a connection that
    publishes (``connection.blocked``), and then reads nothing more from it. So this one publishes what
    no queue takes, and behind it asks something: either of the two is answered.

    :raises ChannelError: the user may not publish to the default exchange
    :raises MQError: there is no connection
    """
    words: list[str] = []

    with Session(service.address(), SHORTLY) as opened:

        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            def blocked(_connection: Any, frame: Any) -> None:
                words.append(printable(str(frame.method.reason)))
                done(None)

            opened.link.amqp.add_on_connection_blocked_callback(blocked)
            channel.basic_publish("", f"nobody.{uuid.uuid4().hex}", b"")
            channel.basic_qos(callback=done)

        opened.do(operation)
    return f"the broker takes no messages: {words[0]} (resource alarm)" if words else ""


def unheard(service: MQConnector, queue: str) -> bool:
    """Whether a queue has no consumer, as far as the broker says so."""
    try:
        with Session(service.address(), SHORTLY) as opened:
            found = opened.run(input_queue.exists(queue))
    except MQError:
        return False
    return found is not None and not found.consumer_count


def why_not(service: MQConnector) -> str:
    """The same, to be put behind what went wrong, and empty also where it can't be found out."""
    try:
        words = alarm(service)
    except MQError:
        return ""
    return f"; {words}" if words else ""
