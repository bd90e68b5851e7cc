"""The dead letters of a queue: what they are, why they died, and how they get back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pika
from pika.spec import Basic

from .. import payload
from ..connection import Connection
from ..connection.scratch import Operation
from ..connection.session import Session
from ..errors import NotConnected, PayloadError, Unroutable
from ..publisher import Publisher

if TYPE_CHECKING:
    from ..connector import MQConnector

#: Seconds that the broker has to confirm what is put back.
_CONFIRM_WITHIN = 30.0
#: Characters of a body that are shown.
_EXCERPT = 100
#: Headers that tell of the death, and would be wrong in a message that lives again.
_OBITUARY = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


@dataclass(frozen=True)
class DeadLetter:
    """A message of the dead-letter queue."""

    delivery_tag: int
    properties: pika.BasicProperties
    body: bytes
    #: How many others were ready when it was taken.
    behind: int

    @property
    def death(self) -> Mapping[str, Any]:
        """The latest entry of the header ``x-death``, as RabbitMQ writes it."""
        headers: Mapping[str, Any] = self.properties.headers or {}
        latest: Mapping[str, Any] = (headers.get("x-death") or [{}])[0]
        return latest

    def origin(self, default: str) -> str:
        """The queue that it died in; `default` where nothing says so."""
        queue: str = self.death.get("queue") or default
        return queue

    def __str__(self) -> str:
        time = self.death.get("time")
        when = f"{time:%Y-%m-%d %H:%M:%S}" if isinstance(time, datetime) else "at some time"
        return f"{when}  {self.death.get('reason', 'unknown')}  {self._excerpt()}"

    def _excerpt(self) -> str:
        try:
            text = repr(payload.decode(self.body))
        except PayloadError:
            text = repr(self.body[:_EXCERPT])
        return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}… ({len(self.body)} bytes)"

    def revived(self) -> pika.BasicProperties:
        """Its properties without what the broker has added since it died."""
        values = {
            name: getattr(self.properties, name)
            for name in vars(pika.BasicProperties())
            if name != "headers"
        }
        headers = {
            key: value
            for key, value in (self.properties.headers or {}).items()
            if not key.startswith(_OBITUARY)
        }
        return pika.BasicProperties(**values, headers=headers or None)


class DeadLetterQueue:
    """Takes messages out of a dead-letter queue, one by one, for as long as it is open.

    What was taken and not removed goes back when the connection is closed.
    """

    def __init__(self, session: Session, queue: str) -> None:
        self._session = session
        self._channel: pika.channel.Channel | None = None
        self._on_empty: Callable[[Any], None] = lambda _: None
        self.name = f"{queue}.dead"

    def __iter__(self) -> Iterator[DeadLetter]:
        """All messages that are there now, oldest first; not those that come while we look."""
        left: int | None = None
        while left != 0:
            letter = self._session.run(_one(self._get()))
            if letter is None:
                return
            left = letter.behind if left is None else left - 1
            yield letter

    def remove(self, letter: DeadLetter) -> None:
        """The message is safe elsewhere."""
        self._session.run(_one(self._ack(letter.delivery_tag)))

    def _get(self) -> Operation:
        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            def got(_: Any, method: Basic.GetOk, properties: Any, body: bytes) -> None:
                tag, behind = method.delivery_tag or 0, method.message_count or 0
                done(DeadLetter(tag, properties, body, behind))

            # pika tells of an empty queue by a callback of its own, and looks through all it has
            # whenever one is added: so there is one for all messages.
            self._on_empty = done
            if channel is not self._channel:
                self._channel = channel
                channel.add_callback(
                    lambda _: self._on_empty(None), [Basic.GetEmpty], one_shot=False
                )
            channel.basic_get(self.name, got)

        return operation

    def _ack(self, tag: int) -> Operation:
        def operation(channel: pika.channel.Channel, done: Callable[[Any], None]) -> None:
            channel.basic_ack(tag)
            # An ack isn't answered; what is sent behind it is.
            channel.basic_qos(callback=done)

        return operation


def _one(operation: Operation) -> Any:
    return (yield operation)


def _put_back(publisher: Publisher, queue: str, letter: DeadLetter) -> None:
    """:raises MQError: the broker hasn't taken it"""
    try:
        publisher.publish("", queue, letter.body, letter.revived()).result(_CONFIRM_WITHIN)
    except FutureTimeout:
        raise NotConnected(
            f"the broker hasn't confirmed a message to {queue!r} within {_CONFIRM_WITHIN:g} s; "
            "it stays a dead letter as well"
        ) from None


def show(service: MQConnector, requeue: bool) -> int:
    """Print the dead letters of each input queue, and put them back where they died if asked for.

    A message is taken out only after the broker has confirmed that its copy is in the queue;
    cut short in between, it is in both.

    :returns: exit code: 0, or 1 where one could not be put back, as its queue is gone
    """
    stayed = False
    for consumer in service.consumers.values():
        if consumer.is_private:
            continue  # what its callback can't handle joins the dead letters of another queue
        address = consumer.connection.address
        with Session(address) as session, Publisher(Connection(address)) as back:
            dead = DeadLetterQueue(session, consumer.queue)
            count = 0
            for letter in dead:
                print(letter, flush=True)
                if requeue:
                    origin = letter.origin(consumer.queue)
                    try:
                        _put_back(back, origin, letter)
                    except Unroutable:  # a subscriber's queue goes with its service
                        stayed = True
                        print(f"stays a dead letter: there is no queue {origin!r} any more")
                        continue
                    dead.remove(letter)
                count += 1
            print(f"{count} dead letters of {consumer.queue!r}{' put back' if requeue else ''}")
    return int(stayed)
