"""Keeps a queue consumed, whatever happens to the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import pika

from ..connection import Connection, input_queue
from ..connection.attempts import Attempts
from ..connection.broker import UNANSWERED, is_lost, is_our_doing, is_stuck
from ..connection.link import Link
from ..connection.scratch import Done
from ..errors import ChannelError, MQError, StartError
from ..logs import Complaints, Logger
from .channel import Channel
from .consumption import Consumption
from .handling import Handling
from .opened import OpenedChannel
from .unserved import Unserved

_log = Logger(__name__)


class Supervised(Protocol):
    """The consumer whose queue it is; see `ConsumerThread`."""

    @property
    def connection(self) -> Connection:
        """Where the queue is."""

    @property
    def queue(self) -> str:
        """Its name."""

    @property
    def on_change(self) -> Callable[[], None]:
        """Called when the queue begins or stops to be consumed, or when that has failed."""

    def ready_queue(self, opened: OpenedChannel, done: Done) -> None:
        """Find the queue or make it."""

    def tell(self, error: Exception) -> None:
        """Hears of a failure."""


class Supervision:
    """Opens a channel whenever there is none, until it is stopped; a member of the connection.

    Its methods are called on the connection's loop, except those under "from any thread".
    """

    def __init__(self, thread: Supervised) -> None:
        self.queue = thread.queue
        #: Why the start has failed.
        self.failure: MQError | None = None
        #: Messages that were in hand when the deadline passed.
        self.unfinished = 0
        #: Whether there were any, or the broker may not have heard that they are finished.
        self.is_cut_short = False
        #: Set once a stop was asked for; and once everything has ended, except callbacks that hang.
        self.stopping, self.over = threading.Event(), threading.Event()
        #: Why there is no consumer, in words.
        self.last_error = ""
        self._thread = thread
        self._connection = thread.connection
        self._handling: Handling | None = None
        self._link: Link | None = None
        self._consumption: Consumption | None = None
        #: Attempts to consume.
        self._attempts = Attempts()
        self._complaints = Complaints()
        self._unserved = Unserved()
        self._deadline = 0.0

    # ---- from any thread

    @property
    def is_well(self) -> bool:
        """Whether the broker has an active consumer of ours; part of `Member`."""
        consumption = self._consumption
        return consumption is not None and consumption.is_consuming

    @property
    def channel(self) -> Channel | None:
        """The channel as a callback would get it."""
        consumption, handling = self._consumption, self._handling
        if handling is None or consumption is None or not consumption.opened.is_open:
            return None
        return handling.channel(consumption.opened)

    def on_pace(self) -> None:
        """Look whether another prefetch would be better, and change it."""
        handling, consumption = self._handling, self._consumption
        if handling is None or consumption is None:
            return
        if handling.is_adapted(consumption.opened) and not handling.outbox.is_careful:
            return  # most of the time; waking the loop for nothing costs more than this look
        self._connection.call(self._adapt)

    def start(self, handling: Handling) -> None:
        """Join the connection, which opens a channel when it can.

        :raises ConfigurationError: something is missing in the configuration
        """
        self._handling = handling
        self._connection.join(self)
        if self.stopping.is_set():  # since `stop` has looked for a loop, and there was none
            self._connection.call(self._stop)

    def stop(self, timeout: float) -> None:
        """As `mq_connector.consumer.thread.ConsumerThread.stop`; `timeout` in seconds."""
        deadline = time.monotonic() + timeout
        self._deadline = min(deadline, self._deadline) if self.stopping.is_set() else deadline
        self.stopping.set()
        self._connection.call(self._stop)

    def fail(self, error: MQError) -> None:
        """The start has failed: say so and end."""
        self.failure = error
        if self._handling is not None and self._connection.is_own_thread:
            # On a worker's thread, as `error_func` may be slow, and others share the loop.
            self._handling.workers.inbox.put(partial(self._thread.tell, error))
        else:
            self._thread.tell(error)
        self.stop(0)
        self._thread.on_change()

    # ---- mq_connector.connection.supervised.Member

    def on_open(self, link: Link) -> None:
        """The connection is open: open a channel."""
        self._link = link
        self._open_channel(link)

    def on_lost(self, error: BaseException) -> None:
        """The connection was lost, and the channel with it."""
        self._link = None
        consumption, self._consumption = self._consumption, None
        if consumption is not None:
            if self.stopping.is_set():
                self.unfinished = consumption.opened.outstanding
                self.is_cut_short = self.unfinished > 0
            idle = consumption.is_consuming and not consumption.opened.outstanding
            if not idle and is_our_doing(error):
                consumption.suspect()
            consumption.abandon()
            if idle:
                self._connection.used()  # nothing that we had in hand can be to blame
        if self.stopping.is_set():
            self._end()

    def on_refused(self, reason: str) -> None:
        """The broker refuses the connection for good."""
        self.fail(StartError(reason))
        self._end()

    def _adapt(self) -> None:
        if self._handling is not None:
            self._handling.relax()
        if self._consumption is not None:
            self._consumption.adapt()

    # ---- channels

    def _open_channel(self, link: Link) -> None:
        if link is not self._link or self._consumption is not None:
            return
        if self.stopping.is_set():
            self._end()
            return

        def opened(amqp: pika.channel.Channel) -> None:
            assert self._handling is not None
            if self.over.is_set():
                amqp.close()
            elif link is self._link:
                self._consumption = Consumption(self, link, amqp, self._handling)
                if self.stopping.is_set():
                    self._stop()

        try:
            link.channel(opened)
        except ChannelError as error:
            self._on_failed(link, error)

    def ready_queue(self, opened: OpenedChannel, done: Done) -> None:
        """Part of `mq_connector.consumer.owner.Owner`."""
        self._thread.ready_queue(opened, done)

    def on_change(self, consumption: Consumption) -> None:
        """Part of `mq_connector.consumer.owner.Owner`."""
        if consumption.is_consuming:
            again = " again" if self._attempts.ever_succeeded else ""
            _log.info("consuming %r%s", self.queue, again)
            self._attempts.succeeded()
            self.last_error = ""
            self._connection.accepted()
        self._thread.on_change()

    def on_failed(self, consumption: Consumption, error: MQError) -> None:
        """Part of `mq_connector.consumer.owner.Owner`: give up if that is final, or try again."""
        link = self._link
        if is_lost(error) or link is None:
            return  # then `on_lost` does what is needed
        consumption.abandon()
        self._consumption = None
        self._on_failed(link, error)

    def _on_failed(self, link: Link, error: MQError) -> None:
        error = input_queue.explained(self.queue, error)
        if self._attempts.is_final(error):
            self.fail(error)
            return
        self._attempts.failed += 1
        self.last_error = str(error)
        self.complain(f"{error}; trying again")
        if is_stuck(error):
            self._connection.suspect(self)
        self._connection.later(self._attempts.pause, lambda: self._open_channel(link))

    def complain(self, what: str) -> None:
        """Part of `mq_connector.consumer.owner.Owner`."""
        _log.log(self._complaints.level(what), "%s", what)

    # ---- the end

    def _stop(self) -> None:
        if self._consumption is not None:
            self._consumption.stop(self._deadline)
        else:
            self._end()

    def on_ended(self, consumption: Consumption) -> None:
        """Part of `mq_connector.consumer.owner.Owner`."""
        self.unfinished, self.is_cut_short = consumption.unfinished, consumption.is_cut_short
        self._end()

    def _end(self) -> None:
        self._connection.leave(self)
        if not self.over.is_set():
            self.over.set()
            if self._handling is not None:
                self._handling.workers.stop()
            self._thread.on_change()

    @property
    def busy_for(self) -> float:
        """Seconds for which no worker has been free for another message; 0 where one is."""
        return 0.0 if self._handling is None else self._handling.workers.busy_for

    def look(self, done: Callable[[str], None]) -> None:
        """Ask the broker whether the queue has a consumer."""
        consumption, handling = self._consumption, self._handling
        reason = self._connection.last_error or self.last_error or "no consumer"

        def looked(found: Any, error: MQError | None) -> None:
            has_one = error is None and found is not None and found.consumer_count > 0
            current = None if self.stopping.is_set() else self._consumption
            if has_one and current is not None and current is consumption:
                unserved = self._unserved.seen(current.opened, found)
                if unserved:
                    what = f"{unserved} messages wait in {self.queue!r} and the broker sends none of them"
                    self.on_failed(current, ChannelError(UNANSWERED, what))
            done("" if has_one and self.is_well else reason)

        if handling is not None and handling.workers.why_unhealthy:
            done(handling.workers.why_unhealthy)
        elif self._connection.blocked:
            done(self._connection.blocked)  # it would answer nothing on this connection
        elif consumption is None or not consumption.is_consuming:
            done(reason)
        else:
            consumption.opened.scratch.run(input_queue.exists(self.queue), looked)
