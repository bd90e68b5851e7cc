"""Lists the dead letters of a service, and puts them back."""

from __future__ import annotations

import re
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING

import pika

from ..connection.wire.frames import OVERHEAD
from ..errors import NotConnected, PublishError, Unroutable, printable
from ..publisher import Publisher
from .broker import family, publisher, session, why_not
from .letters import DeadLetter, DeadLetterQueue
from .terminal import say

if TYPE_CHECKING:
    from ..connector import MQConnector

#: Seconds that the broker has to confirm what is put back.
_CONFIRM_WITHIN = 30.0
#: Bytes of a content header beside its properties (AMQP 0-9-1, 4.2.6.1).
_CONTENT_HEADER = 12


class _Stays(Exception):
    """A letter can't be put back, for this reason."""


def show(service: MQConnector, requeue: bool) -> int:
    """Print the dead letters of each input queue, and put them back where they died if asked for.

    A message is taken out only after the broker has confirmed that its copy is in the queue;
    cut short in between, it is in both.

    :returns: exit code: 0, or 1 where one could not be put back
    """
    ours = re.compile("|".join(family(each)[1] for each in service.consumers.values()))
    stayed = False
    for consumer in service.consumers.values():
        if consumer.is_private:
            continue  # what its callback can't handle joins the dead letters of another queue
        with session(service) as opened, publisher(service) as back:
            count = 0
            frame_max = opened.link.amqp.params.frame_max
            dead = DeadLetterQueue(opened, consumer.queue)
            for letter in dead:
                say(str(letter))
                if requeue:
                    try:
                        _put_back(back, _target(letter, consumer.queue, ours), letter, frame_max)
                    except _Stays as reason:
                        stayed = True
                        say(f"stays a dead letter: {reason}")
                        continue
                    except FutureTimeout:
                        raise NotConnected(
                            "the broker hasn't confirmed a message that was put back within "
                            f"{_CONFIRM_WITHIN:g} s, so it stays a dead letter as well"
                            f"{why_not(service)}"
                        ) from None
                    dead.remove(letter)
                count += 1
            say(f"{count} dead letters of {consumer.queue!r}{' put back' if requeue else ''}")
    return int(stayed)


def _target(letter: DeadLetter, default: str, ours: re.Pattern[str]) -> str:
    """Where a letter belongs. It may say so itself, but only among the queues of this service: a
    client can write its own account of a death, and ours are not its rights."""
    origin = letter.origin or default
    if not ours.fullmatch(origin):
        raise _Stays(
            f"it says that it died in queue {printable(origin)!r}, which this service doesn't consume"
        )
    return origin


def _put_back(publisher: Publisher, queue: str, letter: DeadLetter, frame_max: int) -> None:
    """:raises _Stays: for a reason that is the letter's own
    :raises concurrent.futures.TimeoutError: the broker hasn't confirmed it in time
    :raises MQError: no letter can be put back
    """
    try:
        properties = letter.revived()
        size = _size(properties)
    except Exception as error:  # pika's codecs raise whatever a value leads to
        raise _Stays(
            f"its properties can't be read: {type(error).__name__}: {printable(str(error))}"
        ) from None
    if size > frame_max:
        raise _Stays(f"its headers have {size} bytes where this connection allows {frame_max}")
    try:
        publisher.publish("", queue, letter.body, properties).result(_CONFIRM_WITHIN)
    except Unroutable:  # a subscriber's queue goes with its service
        raise _Stays(f"there is no queue {queue!r} any more") from None
    except PublishError as error:
        raise _Stays(printable(str(error))) from None


def _size(properties: pika.BasicProperties) -> int:
    """Bytes of the frame that carries properties; a larger one than allowed costs the connection."""
    return sum(map(len, properties.encode())) + _CONTENT_HEADER + OVERHEAD
