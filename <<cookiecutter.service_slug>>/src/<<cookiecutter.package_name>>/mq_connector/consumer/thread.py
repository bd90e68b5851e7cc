"""A thread that handles the messages of one queue, whatever happens to the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pika

from ..config import Limits
from ..connection import Connection, input_queue
from ..connection.scratch import Done
from ..connection.supervised import connection_to
from ..errors import ConfigurationError, MQError, StartError
from ..logs import Logger, text_of
from .channel import Channel
from .handling import Handling
from .opened import Observer, OpenedChannel
from .supervision import Supervision
from .workers import Callback

_log = Logger(__name__)

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
    :param ack_on_return: acknowledge when the callback returns; without, it settles its messages itself,
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
        ack_on_return: bool = True,
    ) -> None:
        super().__init__(name=f"consumer-{queue}", daemon=True)
        self.connection = connection_to(connection)
        self.queue = queue
        self.callback_func = callback_func
        self.error_func = error_func
        self.ack_on_return = ack_on_return
        #: Called when it begins and when it stops to consume, or has failed; not on one thread only.
        self.on_change: Callable[[], None] = lambda: None
        #: Who counts what becomes of its messages, from the start on.
        self.observer: Observer | None = None
        #: What each worker is within while it works, if anything.
        self.around: Callable[[], AbstractContextManager[object]] | None = None
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
        self._limits = self._limits or Limits.from_environment()
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

    def _on_no_start(self, error: Exception) -> None:
        self._supervision.fail(StartError(f"worker_context() has failed: {text_of(error)}"))

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
        assert self._limits is not None  # there is a channel only after the start
        input_queue.ready(opened, self.queue, self._limits.queue_type, done)
