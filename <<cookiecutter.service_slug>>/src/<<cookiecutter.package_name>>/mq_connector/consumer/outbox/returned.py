"""Replies that came back because their queue isn't there yet.

Neon's client starts the consumer of its reply queue in a thread and publishes its request at once,
so a fast service answers before the queue exists. A reply therefore goes out as mandatory, and one
that the broker returns is sent again until it would have expired. The queue isn't declared in the
client's place while its client can be expected to do so: for a client that has given up, that would
leave a queue behind for ever, and under tight permissions (403), exclusive queues (405) or denied
transient queues (541) it fails anyway.

The course of one such queue (`MissingQueue`), whose messages keep their order::

    COLLECTING ─▶ PAUSING ─▶ TRYING ─▶ RELEASING ─▶ gone
                     ▲──────────┴──────────┘
"""

from __future__ import annotations

import enum
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import pika
from pika.spec import Basic

from ...errors import EXCERPT, MQError, named
from ...logs import Complaints, Logger
from ...payload.request import request_id
from ..opened import Message
from ..opened.lines import SHORT

_log = Logger(__name__)

#: Seconds between two attempts: doubled from the first up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
#: Seconds after which a queue is declared for a reply that never expires.
_DECLARE_AFTER = 0.2
#: Seconds for which a reply without an expiration is tried.
_PATIENCE = 30.0


class Reply:
    """A message to a queue that wasn't there.

    :ivar since: when it was first published, as far as is known (`time.monotonic`)
    :ivar patience: seconds for which it is worth sending again
    :ivar expires: whether it has an expiration of its own
    :ivar lined_up: whether it was published when the queue was known to be missing
    """

    __slots__ = ("expires", "lined_up", "message", "patience", "since")

    def __init__(self, message: Message, lined_up: bool = False) -> None:
        self.message = message
        self.lined_up = lined_up
        self.since = time.monotonic()
        expiration = message.properties.expiration if message.properties else None
        self.expires = expiration is not None
        self.patience = _PATIENCE
        if expiration is not None and str(expiration).isdecimal():
            self.patience = int(expiration) / 1000

    @property
    def age(self) -> float:
        """Seconds since it was published."""
        return time.monotonic() - self.since


class State(enum.Enum):
    """Where a `MissingQueue` stands."""

    #: The first message was returned; others that were sent before that may still be returned.
    COLLECTING = enum.auto()
    #: All that is known waits for the next attempt.
    PAUSING = enum.auto()
    #: The first message is under way, to find out whether the queue is there.
    TRYING = enum.auto()
    #: The queue is there: all others are under way.
    RELEASING = enum.auto()


class MissingQueue:
    """What waits for one queue, in the order in which it was published."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.COLLECTING
        #: To be sent, at the next attempt or behind what is under way.
        self.waiting: deque[Reply] = deque()
        #: Sent, and the broker hasn't dealt with it yet.
        self.under_way: deque[Reply] = deque()
        #: Come back since the last attempt began: ahead of all that waits.
        self.back: list[Reply] = []
        self.pause = _FIRST_PAUSE
        self.was_declared = False
        #: Why there is no such queue, as far as is known.
        self.reason = "its client has gone, or may not make it (403, in the client's own log)"
        #: Stands for the timer that is set; an older one does nothing.
        self.timer = object()

    def came_back(self, body: bytes) -> list[Reply] | None:
        """Note that a message that was under way has been returned.

        :returns: those before it, which have arrived, as the broker returns messages in the order of
            their publishing; None where it wasn't one of those under way
        """
        for position, reply in enumerate(self.under_way):
            if reply.message.body == body:
                arrived = [self.under_way.popleft() for _ in range(position)]
                self.back.append(self.under_way.popleft())
                return arrived
        return None

    def came_late(self, reply: Reply) -> None:
        """Add one that was published before the queue was known to be missing, and is returned only now:
        ahead of those that were published since."""
        if self.state is State.COLLECTING:
            self.back.append(reply)
            return
        places = (place for place, each in enumerate(self.waiting) if each.lined_up)
        self.waiting.insert(next(places, len(self.waiting)), reply)

    def gather(self) -> None:
        """All that waits, in order again."""
        self.waiting.extendleft(reversed([*self.back, *self.under_way]))
        self.back.clear()
        self.under_way.clear()


class Sender(Protocol):
    """What the outbox does for returned replies, on the loop."""

    def send_again(self, message: Message) -> bool:
        """:returns: False, with nothing done, while there is no channel"""

    def when_answered(self, answered: Callable[[], None]) -> None:
        """Call back when the broker has dealt with all that was sent so far; never after a loss."""

    def declare(self, queue: str, refused: Callable[[MQError], object]) -> None:
        """Declare a queue the way Neon's clients do, on a channel that may die.

        :param refused: called with the broker's refusal
        """

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run a function after some seconds."""

    def keep(self, message: Message) -> None:
        """One more message waits."""

    def let_go(self, message: Message) -> None:
        """It waits no longer."""


class ReturnedReplies:
    """Sends returned replies again, those to one queue in their order; all methods are for the loop."""

    def __init__(self, sender: Sender, complaints: Complaints) -> None:
        self._sender = sender
        self._complaints = complaints
        #: By name. What is published to one of these has to line up, see `hold`; any thread may look
        #: for a name.
        self.queues: dict[str, MissingQueue] = {}

    def on_return(
        self, method: Basic.Return, properties: pika.BasicProperties, body: bytes
    ) -> None:
        """The broker has returned a message as unroutable."""
        self.came_back(Message("", method.routing_key or "", body, properties, True))

    def came_back(self, message: Message) -> None:
        """As `on_return`."""
        name = message.routing_key
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = MissingQueue(name)
            self._sender.when_answered(lambda: self._on_answered(queue))
        arrived = queue.came_back(message.body)
        if arrived is None:
            queue.came_late(Reply(message))
            self._sender.keep(message)
        else:
            self._arrived(arrived)

    def hold(self, message: Message) -> bool:
        """Publish behind what waits for the same queue.

        :returns: False, with nothing done, where nothing waits any more
        """
        queue = self.queues.get(message.routing_key)
        if queue is not None:
            queue.waiting.append(Reply(message, lined_up=True))
        return queue is not None

    def on_channel(self) -> None:
        """There is another channel."""
        for queue in self.queues.values():
            queue.gather()  # what came back while there was none
            self._pause(queue, 0.0)

    def on_lost(self) -> None:
        """The channel is gone: what was under way may not have arrived, and is sent again."""
        for queue in self.queues.values():
            queue.gather()
            queue.state = State.PAUSING
            queue.timer = object()

    def _pause(self, queue: MissingQueue, seconds: float) -> None:
        queue.state = State.PAUSING
        timer = queue.timer = object()
        self._sender.later(seconds, lambda: self._try(queue, timer))

    def _try(self, queue: MissingQueue, timer: object) -> None:
        if timer is not queue.timer:
            return
        self._drop_expired(queue)
        if not queue.waiting:
            self._forget(queue)
            return
        first = queue.waiting[0]
        if not first.expires and first.age > _DECLARE_AFTER and not queue.was_declared:
            queue.was_declared = (
                True  # once: what is refused, or whose queue is gone again, is refused
            )
            self._sender.declare(queue.name, partial(self._on_refused, queue))
        if self._send(queue, 1):
            queue.state = State.TRYING

    def _on_answered(self, queue: MissingQueue) -> None:
        """What of the last attempt hasn't come back by now has arrived."""
        if self.queues.get(queue.name) is not queue:
            return
        missing = bool(queue.back)
        self._arrived(list(queue.under_way))
        queue.under_way.clear()
        queue.gather()
        if missing:
            self._pause(queue, queue.pause)
            queue.pause = min(queue.pause * 2, _LONGEST_PAUSE)
        elif not queue.waiting:
            self._forget(queue)
        else:
            queue.pause = _FIRST_PAUSE
            self._drop_expired(queue)
            if self._send(queue, len(queue.waiting)):
                queue.state = State.RELEASING

    def _send(self, queue: MissingQueue, count: int) -> bool:
        """Send the first messages that wait.

        :returns: False where there is no channel; `on_channel` comes when there is
        """
        for _ in range(count):
            if not self._sender.send_again(queue.waiting[0].message):
                return False
            queue.under_way.append(queue.waiting.popleft())
        self._sender.when_answered(lambda: self._on_answered(queue))
        return True

    def _on_refused(self, queue: MissingQueue, error: MQError) -> None:
        queue.reason = f"its client hasn't made it, and we can't: {error}"
        self._complain(queue, "trying on")

    def _complain(self, queue: MissingQueue, consequence: str) -> None:
        what = f"reply queue {queue.name!r} doesn't exist: {queue.reason}; {consequence}"
        _log.log(self._complaints.level(what), "%s", what)

    def _drop_expired(self, queue: MissingQueue) -> None:
        expired = False
        while queue.waiting and queue.waiting[0].age >= queue.waiting[0].patience:
            reply = queue.waiting.popleft()
            self._arrived([reply])
            expired = True
            if _log.is_enabled(logging.INFO):
                _say_late(queue.name, reply)
        if expired:
            self._complain(queue, "its replies are dropped")

    def _arrived(self, replies: list[Reply]) -> None:
        for reply in replies:
            self._sender.let_go(reply.message)

    def _forget(self, queue: MissingQueue) -> None:
        del self.queues[queue.name]


def _say_late(queue: str, reply: Reply) -> None:
    message = reply.message
    message_id = request_id(message.body, message.properties, SHORT)
    shown = None if message_id is None else message_id[:EXCERPT]
    _log.info(
        "the answer to %s is late and dropped, %.1f s after it was sent first: no queue %r",
        named(shown),
        reply.age,
        queue,
        about={"message_id": shown, "queue": queue, "outcome": "late"},
    )
