"""The messages of a dead-letter queue: what they are, and what of them may live again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pika
from pika.frame import Method
from pika.spec import Basic

from .. import payload
from ..errors import printable
from .broker import one
from .session import Session

#: Characters of a body, and of a reason, that are shown.
_EXCERPT, _REASON = 100, 40
#: Headers that tell of the death, and would be wrong in a message that lives again.
_OBITUARY = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
#: Headers that would have the broker put a copy into each queue that they name.
_COPIES = ("CC", "BCC")


@dataclass(frozen=True)
class DeadLetter:
    """A message of the dead-letter queue. Anybody may have put it there, with anything in it."""

    delivery_tag: int
    properties: pika.BasicProperties
    body: bytes
    #: How many others were ready when it was taken.
    behind: int

    @property
    def headers(self) -> Mapping[Any, Any]:
        """Its headers; empty where they can't be read."""
        try:
            headers: Mapping[Any, Any] = self.properties.headers or {}
        except Exception:  # pika's decoders raise whatever a value leads to
            return {}
        return headers

    @property
    def death(self) -> Mapping[Any, Any]:
        """The latest entry of the header ``x-death``, as RabbitMQ writes it; empty where there is none."""
        deaths = self.headers.get("x-death")
        latest = deaths[0] if isinstance(deaths, list) and deaths else None
        return latest if isinstance(latest, Mapping) else {}

    @property
    def origin(self) -> str | None:
        """The queue that it died in, as it says; None where it doesn't."""
        name = self.death.get("queue")
        return name if isinstance(name, str) and name else None

    def __str__(self) -> str:
        time, reason = self.death.get("time"), self.death.get("reason")
        when = f"{time:%Y-%m-%d %H:%M:%S}" if isinstance(time, datetime) else "at some time"
        why = printable(reason, _REASON) if isinstance(reason, str) and reason else "unknown"
        return f"{when}  {why}  {self._excerpt()}"

    def _excerpt(self) -> str:
        try:
            text = repr(payload.decode(self.body))
        except Exception:  # no payload, or one that Python can't write, such as a number too long
            text = repr(self.body[:_EXCERPT])
        return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}… ({len(self.body)} bytes)"

    def revived(self) -> pika.BasicProperties:
        """Its properties without what the broker has added since it died, and without what only its
        publisher could ask for: copies to other queues, and its own name (``user_id``), which the
        broker takes from nobody else.

        :raises Exception: whatever pika's decoders raise for values that they can't hold
        """
        values = {
            name: getattr(self.properties, name)
            for name in vars(pika.BasicProperties())
            if name not in ("headers", "user_id")
        }
        headers = {
            key: value
            for key, value in (self.properties.headers or {}).items()
            if not (isinstance(key, str) and (key.startswith(_OBITUARY) or key in _COPIES))
        }
        return pika.BasicProperties(**values, headers=headers or None)


class DeadLetterQueue:
    """Takes messages out of a dead-letter queue, one by one, for as long as it is open.

    What was taken and not removed goes back when the connection is closed.
    """

    def __init__(self, session: Session, queue: str) -> None:
        self._session = session
        self._channel: pika.channel.Channel | None = None
        self._done: Callable[[Any], None] = lambda _: None
        self.name = f"{queue}.dead"

    def __iter__(self) -> Iterator[DeadLetter]:
        """All messages that are there now, oldest first; not those that come while we look."""
        left: int | None = None
        while left != 0:
            letter = self._session.run(one(self._get))
            if letter is None:
                return
            left = letter.behind if left is None else left - 1
            yield letter

    def remove(self, letter: DeadLetter) -> None:
        """The message is safe elsewhere."""

        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            channel.basic_ack(letter.delivery_tag)
            # An ack isn't answered; what is sent behind it is.
            channel.basic_qos(callback=done)

        self._session.run(one(operation))

    def _get(self, channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
        """Take the next one, past pika: it reads the properties at once, and one that it can't read
        would cost the connection."""
        self._done = done
        transport = self._session.link.transport
        if channel is not self._channel:
            self._channel = channel
            # pika looks through all callbacks whenever one is added: so there is one for all messages.
            channel.add_callback(lambda _: self._done(None), [Basic.GetEmpty], one_shot=False)
            transport.reader.attach(channel.channel_number, self)
        transport.send([Method(channel.channel_number, Basic.Get(queue=self.name)).marshal()])

    # ---- on the loop: mq_connector.connection.wire.deliveries.Sink

    def deliver(self, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """The next message has come."""
        self._done(DeadLetter(method.delivery_tag, properties, body, method.message_count))

    def closing(self) -> None:
        """The broker closes the channel; whoever waits is told by pika."""
