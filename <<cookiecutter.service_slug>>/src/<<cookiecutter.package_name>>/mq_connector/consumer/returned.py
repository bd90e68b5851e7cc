"""Replies that came back because their queue isn't there yet.

Neon's client starts the consumer of its reply queue in a thread and publishes its request at once,
so a fast service answers before the queue exists. A reply therefore goes out as mandatory, and one
that the broker returns is sent again until it would have expired. The queue isn't declared in the
client's place while its client can be expected to do so: for a client that has given up, that would
leave a queue behind for ever, and under tight permissions (403), exclusive queues (405) or denied
transient queues (541) it fails anyway.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable
from itertools import compress
from typing import Protocol

import pika
from pika.spec import Basic

_log = logging.getLogger(__name__)

#: Seconds between two attempts: doubled from the first up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
#: Seconds after which a queue is declared for a reply that never expires.
_DECLARE_AFTER = 0.2
#: Seconds for which a reply without an expiration is tried.
_PATIENCE = 30.0
#: Messages that wait at the same time, and bytes of their bodies; beyond, new ones are dropped with a
#: warning.
_MOST, _MOST_BYTES = 10_000, 64 * 1024 * 1024


class Message:
    """A message to a queue that wasn't there.

    :ivar since: when it was first published, as far as is known (`time.monotonic`)
    :ivar patience: seconds for which it is worth sending again
    :ivar held: published when others had come back already, so behind all that come back by themselves
    """

    __slots__ = ("body", "expires", "held", "patience", "properties", "since")

    def __init__(self, body: bytes, properties: pika.BasicProperties, held: bool = False) -> None:
        self.body = body
        self.held = held
        self.properties = properties
        self.since = time.monotonic()
        expiration = properties.expiration
        self.expires = expiration is not None
        self.patience = _PATIENCE
        if expiration is not None and str(expiration).isdecimal():
            self.patience = int(expiration) / 1000


class _Queue:
    """What waits for one queue, in the order in which it was published."""

    __slots__ = ("awaiting", "complete", "held", "pause", "returned", "sent")

    def __init__(self) -> None:
        #: Whether the broker has yet to deal with the last attempt; otherwise a timer is set.
        self.awaiting = False
        #: Whether all that was published before the first one came back has come back, too. Until then
        #: nothing that was published later may be sent.
        self.complete = False
        self.pause = _FIRST_PAUSE
        #: Sent again, and not known to have arrived.
        self.sent: list[Message] = []
        #: Come back.
        self.returned: list[Message] = []
        #: Published meanwhile.
        self.held: list[Message] = []


class Sender(Protocol):
    """What the consumer does for returned replies, on its loop."""

    def resend(self, queue: str, messages: list[Message], answered: Callable[[], None]) -> bool:
        """Publish as mandatory, and call ``answered`` when all that comes back has come back.

        :returns: False, with nothing done, while there is no channel
        """

    def declare_reply_queue(self, queue: str) -> None:
        """Declare a queue the way Neon's clients do, on a channel that may die."""

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run a function after a while."""


class ReturnedReplies:
    """Sends returned replies again, those to one queue in their order; all methods are for the loop."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        #: By name. What is published to one of these queues has to line up, see `hold`; any thread
        #: may look for a name.
        self.waiting: dict[str, _Queue] = {}
        self._count = self._bytes = 0

    def on_return(
        self, method: Basic.Return, properties: pika.BasicProperties, body: bytes
    ) -> None:
        """The broker has returned a message as unroutable."""
        name = method.routing_key or ""
        if method.exchange:
            _log.warning(
                "nothing is bound to exchange %r for %r: message dropped", method.exchange, name
            )
            return
        queue = self.waiting.get(name)
        if queue is None:
            queue = self.waiting[name] = _Queue()
            self._pause(name, queue)
        message = self._sent_before(queue, body) or Message(body, properties)
        self._add(name, queue.returned, message)

    def hold(self, name: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Publish behind what waits for the same queue."""
        message = Message(body, properties, held=True)
        queue = self.waiting.get(name)
        if queue is not None:
            self._add(name, queue.held, message)
        elif not self._sender.resend(name, [message], lambda: None):
            queue = self.waiting[name] = _Queue()
            self._add(name, queue.held, message)
            self._pause(name, queue)

    def on_lost(self) -> None:
        """The channel is gone, and with it the news of what was under way."""
        for name, queue in self.waiting.items():
            queue.complete = True
            if queue.awaiting:
                queue.awaiting = False
                queue.returned, queue.sent = queue.sent + queue.returned, []
                self._pause(name, queue)

    def on_restart(self) -> None:
        """The loop is another one, and its timers are gone."""
        for queue in self.waiting.values():
            queue.awaiting = True
        self.on_lost()

    def _add(self, name: str, to: list[Message], message: Message) -> None:
        if self._count >= _MOST or self._bytes >= _MOST_BYTES:
            _log.warning("queue %r doesn't exist and too many messages wait: one dropped", name)
            return
        self._count += 1
        self._bytes += len(message.body)
        to.append(message)

    def _done_with(self, messages: list[Message]) -> None:
        self._count -= len(messages)
        self._bytes -= sum(len(message.body) for message in messages)

    def _sent_before(self, queue: _Queue, body: bytes) -> Message | None:
        for position, message in enumerate(queue.sent):
            if message.body == body:
                self._done_with([message])
                return queue.sent.pop(position)
        return None

    def _pause(self, name: str, queue: _Queue) -> None:
        self._sender.later(queue.pause, lambda: self._try_again(name, queue))
        queue.pause = min(max(queue.pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)

    def _try_again(self, name: str, queue: _Queue) -> None:
        # While some were under way again, others may have come back for the first time.
        queue.returned.sort(key=lambda each: (each.held, each.since))
        worth = [self._is_worth_it(name, each) for each in queue.returned]
        self._done_with(list(compress(queue.returned, map(operator.not_, worth))))
        messages = list(compress(queue.returned, worth))
        queue.returned = []
        if queue.complete or not messages:
            messages += queue.held
            queue.held = []
        if not messages:
            del self.waiting[name]
        elif self._sender.resend(name, messages, lambda: self._on_answered(name, queue)):
            queue.sent, queue.awaiting = messages, True
        else:
            queue.returned = messages
            self._pause(name, queue)

    def _is_worth_it(self, name: str, message: Message) -> bool:
        waited = time.monotonic() - message.since
        if waited >= message.patience:
            _log.info("queue %r doesn't exist: its client has gone, reply dropped", name)
            return False
        if not message.expires and waited > _DECLARE_AFTER:
            self._sender.declare_reply_queue(name)
        return True

    def _on_answered(self, name: str, queue: _Queue) -> None:
        """What of the last attempt hasn't come back by now has arrived."""
        self._done_with(queue.sent)
        queue.sent, queue.awaiting, queue.complete = [], False, True
        if queue.returned or queue.held:
            if not queue.returned:
                queue.pause = 0.0
            self._pause(name, queue)
        else:
            del self.waiting[name]
