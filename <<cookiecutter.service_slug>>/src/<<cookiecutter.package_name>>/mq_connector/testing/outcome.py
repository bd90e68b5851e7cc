"""What came of a message that a handler got from the harness."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pika

from .. import payload
from ..calling.canned import Question


@dataclass(frozen=True)
class Publish:
    """A message that the handler has published."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties | None

    @property
    def data(self) -> dict[Any, Any]:
        """The decoded body.

        :raises PayloadError: it can't be decoded
        """
        return payload.decode(self.body)


@dataclass
class Outcome:
    """What came of one message."""

    #: ``ack``, ``dead-letter`` or ``requeue``.
    settled: str = ""
    published: list[Publish] = field(default_factory=list)
    #: What the handler has asked other services, in order.
    asked: list[Question] = field(default_factory=list)
    #: Queues and exchanges that the handler declared, by name.
    declared: list[str] = field(default_factory=list)
    #: Where the request asked its reply to go.
    reply_queue: str | None = None
    #: What the handler raised.
    error: Exception | None = None

    def settle(self, how: str) -> None:
        """Note how the message was settled; only the first time counts."""
        self.settled = self.settled or how

    @property
    def replies(self) -> list[dict[Any, Any]]:
        """Decoded bodies of what went to the request's reply queue, in order."""
        return [each.data for each in self.published if each.routing_key == self.reply_queue]

    @property
    def reply(self) -> dict[Any, Any]:
        """The only reply.

        :raises AssertionError: there is none, or more than one
        """
        replies = self.replies
        assert len(replies) == 1, f"expected one reply, got {len(replies)}"
        return replies[0]
