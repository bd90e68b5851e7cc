"""An exchange that a queue is to hear, and which of its messages."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from ..connection import input_queue
from ..connection.broker import ACCESS_REFUSED, PRECONDITION_FAILED
from ..connection.scratch import Operation, Steps
from ..errors import ChannelError
from ..logs import Logger

_log = Logger(__name__)

#: Kinds of exchanges by routing keys; that of Neon's is the first.
KINDS = ("fanout", "direct", "topic")
#: The key of a topic's binding that takes every message.
_EVERYTHING = "#"
#: A queue of one subscriber's own goes when nobody has consumed it for so long, in milliseconds: it
#: outlives a lost connection, not its service. Those of neon-mq-connector stay for ever.
_EXPIRES = 300_000
#: Hexadecimal digits that end the name of such a queue.
_DRAWN = 6
#: Reply codes that leave an exchange usable: it is of another kind, or ours to use but not to make.
_ACCEPTABLE = frozenset((ACCESS_REFUSED, PRECONDITION_FAILED))


@dataclass(frozen=True)
class Subscription:
    """What a queue hears.

    :ivar exchange: made where it is missing, and otherwise used as it is
    :ivar kind: one of `KINDS`, or another that the broker knows
    :ivar routing_keys: one binding for each; empty for everything or, where an exchange is direct, for what
        names the queue
    :ivar durable: whether the exchange is made to outlive a restart of the broker
    """

    exchange: str
    kind: str = KINDS[0]
    routing_keys: tuple[str, ...] = ()
    durable: bool = False

    @classmethod
    def of(
        cls, exchange: str, kind: str | None, routing_keys: Sequence[str] | None
    ) -> Subscription | None:
        """As the parameters of a consumer say; None where they name no exchange.

        A topic is made durable. The other kinds are made as Neon's programs declare them, transient, since
        theirs would be refused otherwise (406).

        :raises ValueError: they say what can't be
        """
        if isinstance(routing_keys, (str, bytes)):
            raise ValueError(
                f"routing_keys is {routing_keys!r}: it must be a list, as [{routing_keys!r}]"
            )
        if not exchange:
            if kind is not None or routing_keys:
                raise ValueError("exchange_type and routing_keys are for an exchange: name it")
            return None
        if kind is not None and kind not in KINDS:
            raise ValueError(f"exchange_type is {kind!r}: it must be one of {', '.join(KINDS)}")
        known = kind or (KINDS[2] if routing_keys else KINDS[0])
        if known == KINDS[0] and routing_keys:
            raise ValueError("a fanout exchange knows no routing keys: leave routing_keys out")
        return cls.made(exchange, known, tuple(routing_keys or ()))

    @classmethod
    def made(cls, exchange: str, kind: str, routing_keys: tuple[str, ...] = ()) -> Subscription:
        """As we make an exchange of this kind."""
        return cls(exchange, kind, routing_keys, durable=kind == KINDS[2])

    def takes(self, queue: str, exchange: str, routing_key: str) -> bool:
        """Whether a message that is published there comes to a queue."""
        if exchange != self.exchange:
            return False
        if self.kind == KINDS[2]:
            patterns = self.routing_keys or (_EVERYTHING,)
            return any(_fits(_words(each), _words(routing_key)) for each in patterns)
        return self.kind == KINDS[0] or routing_key in (self.routing_keys or (queue,))

    def draw_queue(self) -> str:
        """A new name for the queue of one subscriber alone."""
        return f"subscriber_{self.exchange}_{uuid.uuid4().hex[:_DRAWN]}"

    def is_drawn(self, queue: str) -> bool:
        """Whether a queue's name is such a one."""
        pattern = rf"subscriber_{re.escape(self.exchange)}_[0-9a-f]{{{_DRAWN}}}"
        return bool(re.fullmatch(pattern, queue))

    def bind(self, queue: str) -> Steps:
        """Make the exchange, and bind a queue to it.

        :raises ChannelError: the broker refuses
        """
        yield from self.make()
        for key in self.routing_keys or (_EVERYTHING if self.kind == KINDS[2] else queue,):
            yield _binding(queue, self.exchange, key)

    def make(self) -> Steps:
        """Make the exchange.

        :raises ChannelError: the broker refuses
        """
        try:
            yield lambda channel, done: channel.exchange_declare(
                self.exchange, self.kind, durable=self.durable, callback=done
            )
        except ChannelError as error:
            if error.code not in _ACCEPTABLE:
                raise
            _log.warning("exchange %r is used as it is: %s", self.exchange, error)


def _binding(queue: str, exchange: str, key: str) -> Operation:
    return lambda channel, done: channel.queue_bind(queue, exchange, key, callback=done)


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _fits(pattern: list[str], words: list[str]) -> bool:
    """Whether a topic's pattern fits: ``*`` stands for one word, ``#`` for any number of them."""
    if not pattern:
        return not words
    if pattern[0] == _EVERYTHING:
        return any(_fits(pattern[1:], words[start:]) for start in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _fits(pattern[1:], words[1:])


def private(queue: str) -> Operation:
    """Declares the queue of one subscriber alone: nobody else will ever declare it, so it may be of any kind."""
    return input_queue.declare(queue, durable=True, arguments={"x-expires": _EXPIRES})
