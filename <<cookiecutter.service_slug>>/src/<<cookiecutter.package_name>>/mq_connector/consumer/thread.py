"""A thread that handles the messages of one queue, whatever happens to the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pika

from ..config import Limits
from ..connection import Connection, input_queue
from ..connection.broker import (
    ACCESS_REFUSED,
    NOT_ALLOWED,
    RESOURCE_LOCKED,
    is_lost,
    is_our_doing,
    is_stuck,
)
from ..connection.link import Link
from ..connection.scratch import Done
from ..connection.supervised import connection_to
from ..errors import ChannelError, ConfigurationError, MQError, StartError
from ..fork import Process
from ..logs import Complaints, Logger
from .channel import Channel
from .consumption import Consumption
from .opened import Delivery, OpenedChannel
from .outbox import Outbox
from .suspicion import Suspicion
from .workers import Callback, Workers

_log = Logger(__name__)

#: Reply codes for which a consumer that has never consumed gives up.
_FORBIDDEN = frozenset((ACCESS_REFUSED, RESOURCE_LOCKED, NOT_ALLOWED))
#: Seconds of the first pause before a channel is opened again, and of the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.8
#: Seconds for which `ConsumerThread.join` waits for callbacks that ought to have ended.
_LAST_WAIT = 1.0


class ConsumerThread(threading.Thread):
    """Consumes a queue.

    The thread is the first worker: callbacks run on it, and on more threads if there are to be more
    workers. It counts as consuming only while the broker has a consumer of ours. Everything else, be it
    a lost connection, a closed channel, a cancelled consumer or a deleted queue, is recovered from.

    :param connection: the connection to the vhost, shared with whoever else is given it; pika's
        parameters stand for a connection of its own
    :param queue: the input queue; made where it is missing, see `mq_connector.connection.input_queue`
    :param callback_func: ``callback(channel, method, properties, body)``. When it returns, the message
        is acknowledged unless the callback has settled it; when it raises, it is dead-lettered
    :param error_func: ``error_func(thread, exception)`` hears of every failed message and of a failed start
    :param limits: workers, prefetch and so on; by default from the environment
    :param auto_ack: acknowledge when the callback returns; without, it settles its messages itself,
        in its own time
    """

    def __init__(
        self,
        connection: Connection | pika.ConnectionParameters | Sequence[pika.ConnectionParameters],
        queue: str,
        callback_func: Callback,
        error_func: Callable[[Any, Exception], None] | None = None,
        *,
        limits: Limits | None = None,
        auto_ack: bool = True,
    ) -> None:
        super().__init__(name=f"consumer-{queue}", daemon=True)
        self.connection = connection_to(connection)
        self.queue = queue
        self.callback_func = callback_func
        self.error_func = error_func
        self.auto_ack = auto_ack
        #: Called when it begins and when it stops to consume, or has failed; not on one thread only.
        self.on_change: Callable[[], None] = lambda: None
        self._limits = limits
        self._supervision = Supervision(self)

    # ---- from any thread

    @property
    def is_consuming(self) -> bool:
        """Whether the broker has an active consumer of ours."""
        return self._supervision.is_well

    @property
    def is_private(self) -> bool:
        """Whether the queue is this thread's alone, with a name that nobody else knows."""
        return False

    @property
    def failure(self) -> MQError | None:
        """Why the consumer could not start; None while it may yet."""
        return self._supervision.failure

    @property
    def unfinished(self) -> int:
        """Messages that were in hand when the deadline of `stop` passed; they are delivered again."""
        return self._supervision.unfinished

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called, or the start has failed."""
        return self._supervision.stopping.is_set()

    @property
    def channel(self) -> Channel | None:
        """The channel as a callback would get it, while there is one."""
        return self._supervision.channel

    def stop(self, timeout: float = 25.0) -> None:
        """Stop consuming, finish what the workers have in hand, acknowledge it, close; returns at once.

        What no worker has begun goes back to the queue. Safe to call twice, before `start`, and from
        a callback. Wait for the end with `join`.

        :param timeout: seconds after which unfinished messages are left for redelivery; 0 on a second
            call cuts the first one short
        """
        self._supervision.stop(timeout)

    def is_alive(self) -> bool:
        """Whether it has yet to end; a callback that hangs on past the deadline of `stop` doesn't count."""
        return super().is_alive() and not self._supervision.over.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended; a callback that hangs on past the deadline of `stop` isn't waited for.

        :param timeout: seconds
        """
        began = time.monotonic()
        if self.ident is None:
            super().join(timeout)  # which says that it was never started
        elif self._supervision.over.wait(timeout):
            left = _LAST_WAIT if timeout is None else timeout - (time.monotonic() - began)
            super().join(max(0.0, min(left, _LAST_WAIT)))

    def look(self, done: Callable[[str], None]) -> None:
        """Ask the broker itself whether the queue has a consumer; for the connection's loop.

        :param done: gets the reason why all isn't well; empty if it is
        """
        self._supervision.look(done)

    # ---- the thread

    def run(self) -> None:
        """Handle messages; ends after `stop`, or when the broker refuses us for good."""
        workers = None
        try:
            if not self._supervision.stopping.is_set():
                workers = self._start()
        except MQError as error:
            self._supervision.fail(error)
        except Exception as error:  # a thread that ends without a failure is a service that idles
            self._supervision.fail(
                ConfigurationError(f"the configuration can't be used: {error!r}")
            )
        if workers is None:
            self._supervision.over.set()
            return
        workers.work()
        self._supervision.close()

    def _start(self) -> Workers:
        limits = self._limits or Limits.from_environment()
        supervision = self._supervision
        workers = Workers(
            limits,
            self.name,
            self.callback_func,
            supervision.channel_of,
            self.tell,
            supervision.suspicion,
            supervision.on_pace,
            self.auto_ack,
        )
        try:
            workers.start()
        except RuntimeError as error:
            workers.stop()
            raise StartError(
                f"{limits.workers} worker threads can't be started ({error}): lower MQ_WORKERS, "
                "or raise the limit on processes"
            ) from None
        try:
            supervision.start(limits, workers)
        except Exception:
            workers.stop()
            raise
        return workers

    def tell(self, error: Exception) -> None:
        """Tell `error_func` of an error."""
        if self.error_func is None:
            return
        try:
            self.error_func(self, error)
        except BaseException:  # the last line of defence must hold, against SystemExit too
            _log.exception("the error handler of %r failed", self.queue)

    # ---- for subclasses

    def ready_queue(self, opened: OpenedChannel, done: Done) -> None:
        """Find the queue or make it, on every new channel; a subclass may do more before or after.

        :param opened: its `scratch` channels are for this
        :param done: called with nothing, or with the error that keeps us from consuming
        """
        input_queue.ready(opened, self.queue, self._supervision.limits.queue_type, done)


class Supervision:
    """Sees to it that a queue is consumed: opens a channel whenever there is none, until it is stopped.

    Its methods are for the loop of the connection, but for those named otherwise.
    """

    def __init__(self, thread: ConsumerThread) -> None:
        self.queue = thread.queue
        self.failure: MQError | None = None
        self.unfinished = 0
        self.limits = Limits()
        #: Set once a stop was asked for, and once all is over but for callbacks that hang.
        self.stopping, self.over = threading.Event(), threading.Event()
        self._thread = thread
        self._connection = thread.connection
        self._outbox = Outbox(thread.connection)
        self._process = Process()
        self.suspicion = Suspicion()
        self._workers: Workers | None = None
        self._link: Link | None = None
        self._consumption: Consumption | None = None
        self._ever_consumed = False
        self._failures = 0
        self._complaints = Complaints()
        #: Why there is no consumer, in words.
        self.trouble = ""
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
        consumption = self._consumption
        if consumption is None or not consumption.opened.is_open:
            return None
        return Channel(consumption.opened, self._outbox, self._process)

    def channel_of(self, delivery: Delivery) -> Channel:
        """What the callback gets with a delivery."""
        return Channel(delivery.opened, self._outbox, self._process, delivery)

    def on_pace(self) -> None:
        """Another number of messages in hand is better."""
        self._connection.call(self._adapt)

    def start(self, limits: Limits, workers: Workers) -> None:
        """Join the connection.

        :raises ConfigurationError: something is missing in the configuration
        """
        self.limits, self._workers = limits, workers
        self._process = Process()
        self._connection.join(self)
        if self.stopping.is_set():  # just now, when there was nobody on the loop to hear of it
            self._connection.call(self._stop)

    def stop(self, timeout: float) -> None:
        """As `ConsumerThread.stop`."""
        deadline = time.monotonic() + timeout
        self._deadline = min(deadline, self._deadline) if self.stopping.is_set() else deadline
        self.stopping.set()
        self._connection.call(self._stop)

    def fail(self, error: MQError) -> None:
        """The start has failed."""
        self.failure = error
        if self._workers is not None and self._connection.is_own_thread:
            # By a worker, as who is told may take his time, and others share the loop.
            self._workers.inbox.put(partial(self._thread.tell, error))
        else:
            self._thread.tell(error)
        self.stop(0)
        self._thread.on_change()

    def close(self) -> None:
        """All is over: close what was opened beside the channel."""
        if not self._process.forked:
            self._outbox.close()

    # ---- mq_connector.connection.supervised.Member

    def on_open(self, link: Link) -> None:
        """There is a link."""
        self._link = link
        self._open_channel(link)

    def on_lost(self, error: BaseException) -> None:
        """The link is gone."""
        self._link = None
        consumption, self._consumption = self._consumption, None
        if consumption is not None:
            if self.stopping.is_set():
                self.unfinished = consumption.opened.outstanding
            idle = consumption.is_consuming and not consumption.opened.outstanding
            if not idle and is_our_doing(error):
                self.on_suspicion(consumption)
            consumption.abandon()
            if idle:
                self._connection.used()  # nothing that we had in hand can be to blame
        if self.stopping.is_set():
            self._end()

    def on_refused(self, reason: str) -> None:
        """The broker says no."""
        self.fail(StartError(reason))
        self._end()

    def on_suspicion(self, consumption: Consumption) -> None:
        """Part of `mq_connector.consumer.consumption.Owner`: what is in hand may be to blame for a loss."""
        opened = consumption.opened
        alone = opened.latest if consumption.has_one_in_hand else None
        self.suspicion.lost(opened.outstanding, alone)
        self._outbox.is_careful = True

    def _adapt(self) -> None:
        self._outbox.is_careful &= self.suspicion.is_careful
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
            assert self._workers is not None
            if self.over.is_set():
                amqp.close()
            elif link is self._link:
                self._consumption = Consumption(
                    self, link, amqp, self._workers, self._outbox, self.limits, self.suspicion
                )
                if self.stopping.is_set():
                    self._stop()

        try:
            link.channel(opened)
        except ChannelError as error:
            self._on_failed(link, error)

    def ready_queue(self, opened: OpenedChannel, done: Done) -> None:
        """Part of `mq_connector.consumer.consumption.Owner`."""
        self._thread.ready_queue(opened, done)

    def on_change(self, consumption: Consumption) -> None:
        """Part of `mq_connector.consumer.consumption.Owner`."""
        if consumption.is_consuming:
            _log.info("consuming %r%s", self.queue, " again" if self._ever_consumed else "")
            self._ever_consumed = True
            self._failures = 0
            self.trouble = ""
            self._connection.accepted()
        self._thread.on_change()

    def on_failed(self, consumption: Consumption, error: MQError) -> None:
        """Part of `mq_connector.consumer.consumption.Owner`: give up if that is final, or try again."""
        link = self._link
        if is_lost(error) or link is None:
            return  # which has its own course
        consumption.abandon()
        self._consumption = None
        self._on_failed(link, error)

    def _on_failed(self, link: Link, error: MQError) -> None:
        if isinstance(error, ChannelError) and error.code in _FORBIDDEN:
            error = input_queue.start_error(self.queue, error)
        if isinstance(error, StartError) and not self._ever_consumed:
            self.fail(error)
            return
        self._failures += 1
        self.trouble = str(error)
        self.complain(f"{error}; trying again")
        if is_stuck(error):
            self._connection.suspect(self)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._connection.later(pause, lambda: self._open_channel(link))

    def complain(self, what: str) -> None:
        """Part of `mq_connector.consumer.consumption.Owner`."""
        _log.log(self._complaints.level(what), "%s", what)

    # ---- the end

    def _stop(self) -> None:
        if self._consumption is not None:
            self._consumption.stop(self._deadline)
        else:
            self._end()

    def on_ended(self, consumption: Consumption) -> None:
        """Part of `mq_connector.consumer.consumption.Owner`."""
        self.unfinished = consumption.unfinished
        self._end()

    def _end(self) -> None:
        self._connection.leave(self)
        if not self.over.is_set():
            self.over.set()
            if self._workers is not None:
                self._workers.stop()
            self._thread.on_change()

    def look(self, done: Callable[[str], None]) -> None:
        """Ask the broker whether the queue has a consumer."""
        consumption, workers = self._consumption, self._workers
        trouble = self._connection.trouble or self.trouble or "no consumer"

        def looked(consuming: bool) -> None:
            done("" if consuming else trouble)

        if workers is not None and workers.trouble:
            done(workers.trouble)
        elif self._connection.blocked:
            done(self._connection.blocked)  # it would answer nothing on this connection
        elif consumption is None:
            done(trouble)
        else:
            consumption.look(looked)
