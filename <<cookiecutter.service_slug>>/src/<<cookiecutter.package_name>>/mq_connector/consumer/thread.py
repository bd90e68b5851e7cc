"""A thread that handles the messages of one queue, whatever happens to the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pika

from ..config import Limits
from ..connection import Connection, input_queue
from ..connection.scratch import Done
from ..connection.supervised import connection_to
from ..errors import ConfigurationError, MQError, StartError
from ..logs import Logger, text_of
from ..topology import Subscription
from ..topology.subscription import private
from .channel import Channel
from .handling import Handling
from .opened import Observer, OpenedChannel
from .supervision import Supervision
from .workers import Callback

_log = Logger(__name__)

#: Seconds for which `ConsumerThread.join` waits for callbacks that ought to have ended.
_LAST_WAIT = 1.0


class ConsumerThread(threading.Thread):
    """Consumes a queue, and what an exchange sends to it.

    The thread is the first worker: callbacks run on it, and on more threads if there are to be more
    workers. It counts as consuming only while the broker has a consumer of ours. Everything else, be it
    a lost connection, a closed channel, a cancelled consumer or a deleted queue, is recovered from.

    :param connection: the connection to the vhost, which others may share; if pika's parameters are given, the
        consumer opens a connection of its own
    :param queue: the input queue; made where it is missing, see `mq_connector.connection.input_queue`.
        Without a queue, one with a random name is made for this thread and bound to `exchange`: each process of
        the service then gets every message. It is deleted five minutes after its consumer has gone
    :param callback_func: ``callback(channel, method, properties, body)``. When it returns, the message
        is acknowledged unless the callback has settled it; when it raises, it is dead-lettered
    :param error_func: ``error_func(thread, exception)`` is called for every failed message and for a failed start
    :param exchange: made if it is missing; the queue is bound to it
    :param exchange_type: ``fanout``, ``direct`` or ``topic``; by default a topic where there are routing
        keys, else fanout, which is what Neon's services publish to
    :param routing_keys: which messages of the exchange; for a topic with ``*`` for one word and ``#`` for any
        number. A queue with a name stays bound by keys that were given before and aren't any more
    :param workers: threads that run callbacks; by default as ``MQ_WORKERS`` says
    :param prefetch: messages that the broker sends ahead; by default as ``MQ_PREFETCH`` says
    :param limits: workers, prefetch and so on; by default from the environment
    :param ack_on_return: acknowledge when the callback returns; otherwise the callback settles its messages
        itself, then or later
    :raises ValueError: there is neither queue nor exchange, no callback, or a value is out of its range
    """

    def __init__(
        self,
        connection: Connection | pika.ConnectionParameters | Sequence[pika.ConnectionParameters],
        queue: str = "",
        callback_func: Callback | None = None,
        error_func: Callable[[Any, Exception], None] | None = None,
        *,
        exchange: str = "",
        exchange_type: str | None = None,
        routing_keys: Sequence[str] | None = None,
        workers: int | None = None,
        prefetch: int | None = None,
        limits: Limits | None = None,
        ack_on_return: bool = True,
    ) -> None:
        #: What the queue hears beside what is sent to it.
        self.subscription = Subscription.of(exchange, exchange_type, routing_keys)
        self._is_drawn = not queue and self.subscription is not None
        if self._is_drawn:
            assert self.subscription is not None
            queue = self.subscription.draw_queue()
        if not queue or callback_func is None:
            raise ValueError("a consumer needs a queue, or an exchange, and a callback_func")
        super().__init__(name=f"consumer-{queue}", daemon=True)
        self.connection = connection_to(connection)
        self.queue = queue
        self.callback_func = callback_func
        self.error_func = error_func
        self.ack_on_return = ack_on_return
        #: Called when it begins to consume, stops, or has failed; from different threads.
        self.on_change: Callable[[], None] = lambda: None
        #: Who counts what becomes of its messages, from the start on.
        self.observer: Observer | None = None
        #: Makes the context manager that each worker is inside of while it works, if any.
        self.around: Callable[[], AbstractContextManager[object]] | None = None
        self._own = _own_limits(workers, prefetch)
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
        return self._is_drawn

    @property
    def failure(self) -> MQError | None:
        """Why the consumer could not start; None if it has started or still may."""
        return self._supervision.failure

    @property
    def unfinished(self) -> int:
        """Messages that were in hand when the deadline of `stop` passed; they are delivered again."""
        return self._supervision.unfinished

    @property
    def is_cut_short(self) -> bool:
        """Whether there were any, or the broker may not have heard by then that they are finished."""
        return self._supervision.is_cut_short

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called, or the start has failed."""
        return self._supervision.stopping.is_set()

    @property
    def channel(self) -> Channel | None:
        """The channel as a callback would get it, while there is one."""
        return self._supervision.channel

    def stop(self, timeout: float = 25.0) -> None:
        """Stop consuming, finish and acknowledge what the workers are handling, close; returns at once.

        What no worker has begun goes back to the queue. Safe to call twice, before `start`, and from
        a callback. Wait for the end with `join`.

        :param timeout: seconds after which unfinished messages are left for redelivery; on a second call the
            earlier end counts, so 0 stops at once
        """
        self._supervision.stop(timeout)

    def is_alive(self) -> bool:
        """Whether it hasn't ended yet; a callback that still hangs after the deadline of `stop` doesn't count."""
        return super().is_alive() and not self._supervision.over.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, but not for a callback that still hangs after the deadline of `stop`.

        :param timeout: seconds; None for any time
        :raises RuntimeError: it was never started
        """
        began = time.monotonic()
        if self.ident is None:
            super().join(timeout)  # which says that it was never started
        elif self._supervision.over.wait(timeout):
            left = _LAST_WAIT if timeout is None else timeout - (time.monotonic() - began)
            super().join(max(0.0, min(left, _LAST_WAIT)))

    @property
    def busy_for(self) -> float:
        """Seconds for which all workers have been busy with one message each; 0 where one is free."""
        return self._supervision.busy_for

    def look(self, done: Callable[[str], None]) -> None:
        """Ask the broker whether the queue has a consumer; to be called on the connection's loop.

        :param done: gets the reason why all isn't well; empty if it is
        """
        self._supervision.look(done)

    # ---- the thread

    def run(self) -> None:
        """Handle messages; ends after `stop`, or when the broker refuses us for good."""
        handling = None
        try:
            if not self._supervision.stopping.is_set():
                handling = self._start()
        except MQError as error:
            self._supervision.fail(error)
        except Exception as error:  # a thread that ends without a failure is a service that idles
            self._supervision.fail(
                ConfigurationError(f"the configuration can't be used: {text_of(error)}")
            )
        if handling is None:
            self._supervision.over.set()
            return
        handling.workers.work()
        handling.close()

    def _start(self) -> Handling:
        self._limits = replace(self._limits or Limits.from_environment(), **self._own)
        if self._limits.remark:
            _log.warning("%r: %s", self.queue, self._limits.remark)
        handling = Handling(
            self.connection,
            self._limits,
            self.name,
            self.callback_func,
            self.tell,
            self._supervision.on_pace,
            self.ack_on_return,
            "" if self.is_private else self.queue,
            self.observer,
        )
        handling.workers.around = self.around
        handling.workers.on_no_start = self._on_no_start
        handling.start()
        try:
            self._supervision.start(handling)
        except Exception:
            handling.workers.stop()
            raise
        return handling

    def _on_no_start(self, error: BaseException) -> None:
        self._supervision.fail(StartError(f"worker_context() has failed: {text_of(error)}"))

    def tell(self, error: Exception) -> None:
        """Call `error_func` with an error; what it raises itself is logged."""
        if self.error_func is None:
            return
        try:
            self.error_func(self, error)
        except BaseException:  # the last line of defence must hold, against SystemExit too
            _log.exception("the error handler of %r failed", self.queue)

    # ---- for subclasses

    def ready_queue(self, opened: OpenedChannel, done: Done) -> None:
        """Find the queue or make it, and bind it, on every new channel; a subclass may do more before or after.

        :param opened: its `scratch` channels are for this
        :param done: called as ``done(None, error)``; the error is None, or what keeps us from consuming
        """
        assert self._limits is not None  # there is a channel only after the start
        subscription = self.subscription

        def bind(_: Any, error: MQError | None) -> None:
            if error is not None or subscription is None:
                done(None, error)
            else:
                opened.scratch.run(subscription.bind(self.queue), done)

        if self._is_drawn:
            opened.scratch.do(private(self.queue), bind)
        else:
            input_queue.find_or_make(opened, self.queue, self._limits.queue_type, bind)


def _own_limits(workers: int | None, prefetch: int | None) -> dict[str, Any]:
    """A consumer's own, where it has any.

    :raises ValueError: one is out of its range
    """
    given = {"workers": (workers, 1000), "prefetch": (prefetch, 65535)}
    own: dict[str, Any] = {}
    for name, (value, most) in given.items():
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} is {value!r}: it must be a whole number from 1 to {most}")
        own[name] = value
    return own
