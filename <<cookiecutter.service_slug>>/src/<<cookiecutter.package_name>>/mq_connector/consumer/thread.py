"""A thread that consumes one queue, and goes on doing so whatever happens to the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pika
from pika.exceptions import ChannelClosed

from ..config import Limits
from ..connection import Connection
from ..connection.refusals import describe
from ..connection.scratch import Done, Scratch
from ..errors import ChannelError, ConfigurationError, MQError, NotConnected, StartError
from . import input_queue
from .channel import Channel
from .outbox import Outbox
from .workers import Callback, Workers

_log = logging.getLogger(__name__)

#: Reply codes for which a consumer that has never consumed gives up.
_FORBIDDEN = frozenset((403, 405))
#: Seconds from an open channel to an active consumer, before another connection is tried.
_PATIENCE = 10.0
#: Seconds between two looks at whether the drain is over.
_DRAIN_STEP = 0.01
#: Seconds before a loop that failed is started again.
_RESTART_PAUSE = 1.0
#: Quorum queues that tolerate a legacy re-declaration exist since this version.
_TOLERANT_SINCE = (4,)
#: A consumer that doesn't settle in time is cancelled since this version; before, its channel is closed.
_CANCELS_LATE_SINCE = (4, 3)


class ConsumerThread(threading.Thread):
    """Consumes a queue on a connection of its own.

    The thread itself runs the connection's loop and nothing else; callbacks run on worker threads.
    It counts as consuming only while the broker has a consumer of ours. Everything else, be it a lost
    connection, a closed channel, a cancelled consumer or a deleted queue, is recovered from.

    :param connection: the connection to the vhost, or pika's parameters for it; the thread opens one
        of its own
    :param queue: the input queue; made where it is missing, see `mq_connector.consumer.input_queue`
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
        error_func: Callable[[ConsumerThread, Exception], None] | None = None,
        *,
        limits: Limits | None = None,
        auto_ack: bool = True,
    ) -> None:
        super().__init__(name=f"consumer-{queue}", daemon=True)
        if isinstance(connection, Connection):
            self.connection = connection.another()
        elif isinstance(connection, pika.ConnectionParameters):
            self.connection = Connection([connection])
        else:
            self.connection = Connection(list(connection))
        self.queue = queue
        self.callback_func = callback_func
        self.error_func = error_func
        self.auto_ack = auto_ack
        #: Why the consumer could not start; None while it may yet.
        self.failure: MQError | None = None
        #: Messages that were in hand when the deadline of `stop` passed; they are delivered again.
        self.unfinished = 0
        #: Called, on the consumer's thread, when it begins and when it stops to consume.
        self.on_change: Callable[[], None] = lambda: None
        self._limits = limits
        self._workers: Workers | None = None
        self._channel: Channel | None = None
        self._amqp_channel: pika.channel.Channel | None = None
        self._consumer_tag: str | None = None
        self._ever_consumed = False
        self._preparations = 0
        self._outbox: Outbox | None = None
        self._deadline: float | None = None
        self._answered = False
        self._stopping = threading.Event()

    # ---- from any thread

    @property
    def is_consuming(self) -> bool:
        """Whether the broker has an active consumer of ours."""
        channel = self._channel
        return self._consumer_tag is not None and channel is not None and channel.is_open

    @property
    def is_private(self) -> bool:
        """Whether the queue is this thread's alone, with a name that nobody else knows."""
        return False

    def stop(self, timeout: float = 25.0) -> None:
        """Stop consuming, finish what the workers have in hand, acknowledge it, close; returns at once.

        What no worker has begun goes back to the queue. Safe to call twice, before `start`, and from
        a callback. Wait for the end with `join`.

        :param timeout: seconds after which unfinished messages are left for redelivery; 0 on a second
            call cuts the first one short
        """
        deadline = time.monotonic() + timeout
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        if not self._stopping.is_set():
            self._stopping.set()
            self.connection.call(self._begin_stop)
        self.connection.call(lambda: self.connection.later(timeout, self._close))

    # ---- the thread

    def run(self) -> None:
        """The loop; ends after `stop` or when the broker refuses us for good."""
        if self._stopping.is_set():
            return
        try:
            self.connection.parameters  # noqa: B018 - reads the configuration, and with it .env
            limits = self._limits = self._limits or Limits.from_environment()
        except MQError as error:
            self._fail(error)
            return
        except Exception as error:  # a thread that ends without a failure is a service that idles
            self._fail(ConfigurationError(f"the configuration can't be used: {error!r}"))
            return
        self._workers = Workers(
            limits, self.name, self.callback_func, self._on_handler_error, self.auto_ack
        )
        self._outbox = Outbox(self.connection, self._usable_channel, self._when_answered)
        try:
            self._workers.start()
        except RuntimeError as error:
            self._workers.stop()
            self._fail(
                StartError(
                    f"{limits.workers} worker threads can't be started ({error}): lower MQ_WORKERS, "
                    "or raise the limit on processes"
                )
            )
            return
        while True:
            try:
                self.connection.run(self)
                break
            except Exception:  # a consumer never dies silently, not even of its own faults
                _log.exception("the loop of %r failed; starting it again", self.queue)
                self._forget_channel()
                self._outbox.returned.on_restart()
                if self._stopping.wait(_RESTART_PAUSE):
                    break
        self._workers.stop()
        self.on_change()

    # ---- the connection's fate

    def on_open(self) -> None:
        """Part of `mq_connector.connection.supervised.Listener`."""
        amqp = self.connection.amqp
        amqp.add_on_connection_blocked_callback(self._on_blocked)
        amqp.add_on_connection_unblocked_callback(
            lambda *_: _log.warning("the broker takes messages again")
        )
        amqp.channel(on_open_callback=self._on_channel_open)

    def on_lost(self) -> None:
        """Part of `mq_connector.connection.supervised.Listener`."""
        self._forget_channel()

    def on_refused(self, reason: str) -> bool:
        """Part of `mq_connector.connection.supervised.Listener`."""
        if self._ever_consumed:
            return False
        self._fail(StartError(reason))
        return True

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        _log.warning("the broker takes no messages: %s; replies wait", frame.method.reason)

    # ---- from an open channel to an active consumer

    def _on_channel_open(self, amqp: pika.channel.Channel) -> None:
        assert self._limits is not None
        assert self._workers is not None
        assert self._outbox is not None
        if self._stopping.is_set():
            self._close()
            return
        burst = max(1, self._limits.prefetch // 4)
        channel = Channel(
            self.connection,
            amqp,
            self._workers.inbox,
            burst,
            self._outbox.publish,
            self._outbox.returned.waiting,
        )
        self._channel, self._amqp_channel = channel, amqp
        amqp.add_on_close_callback(self._on_channel_closed)
        amqp.add_on_cancel_callback(self._on_cancelled)
        amqp.add_on_return_callback(self._outbox.on_return)
        self._prepare(channel)

    def _prepare(self, channel: Channel) -> None:
        """Get the queue ready, then consume it."""

        def ready(_: Any, error: MQError | None) -> None:
            if error is not None:
                self._unusable(channel, error)
            elif channel is self._channel and channel.is_open:
                self._consume(channel)

        self._preparations += 1
        number = self._preparations
        self.connection.later(_PATIENCE, lambda: self._check_progress(channel, number))
        self.ready_queue(channel, ready)

    def ready_queue(self, channel: Channel, done: Done) -> None:
        """Find the queue or make it, on every new channel; a subclass may do more before or after.

        :param done: called with nothing, or with the error that keeps us from consuming
        """
        assert self._limits is not None
        kind = self._limits.queue_type
        queue = self.queue

        def looked(found: Any, error: MQError | None) -> None:
            if error is not None:
                done(None, error)
            elif found is not None:
                channel.scratch_for_transient.run(input_queue.compare(queue, kind), done)
            elif kind != "auto":
                make(None, None)
            elif self.connection.broker_version < _TOLERANT_SINCE:
                make(False, None)
            else:
                channel.scratch_for_transient.run(input_queue.tolerates_legacy(queue), make)

        def make(tolerant: bool | None, error: MQError | None) -> None:
            if error is not None:
                done(None, error)
            else:
                channel.scratch_for_transient.run(input_queue.make(queue, kind, tolerant), done)

        channel.scratch.run(input_queue.exists(queue), looked)

    def _consume(self, channel: Channel) -> None:
        assert self._limits is not None and self._amqp_channel is not None
        amqp = self._amqp_channel
        if self._stopping.is_set():
            return  # whatever is in hand is being drained
        amqp.basic_qos(prefetch_count=self._limits.prefetch)
        amqp.basic_consume(
            self.queue,
            lambda _, method, properties, body: channel.deliver(method, properties, body),
            callback=self._on_consuming,
        )

    def _check_progress(self, channel: Channel, number: int) -> None:
        """A broker may answer heartbeats and nothing else, as for a quorum queue without a leader."""
        latest = channel is self._channel and number == self._preparations
        if latest and not self.is_consuming and not self._stopping.is_set():
            message = f"the broker doesn't let us consume {self.queue!r} within {_PATIENCE:g} s"
            self._unusable(channel, ChannelError(504, message))

    def _on_consuming(self, frame: Any) -> None:
        self._consumer_tag = frame.method.consumer_tag
        if self._stopping.is_set():
            self._begin_stop()  # it was asked for while the broker was making this consumer
            return
        again, self._ever_consumed = self._ever_consumed, True
        self.connection.proven()
        _log.info("consuming %r%s", self.queue, " again" if again else "")
        if self._outbox is not None and self._channel is not None:
            self._outbox.send_held(self._channel)
        self.on_change()

    # ---- failures and what follows from them

    def _on_cancelled(self, frame: Any) -> None:
        """The broker has cancelled the consumer: its queue was deleted or failed over, or (since 4.3)
        a message wasn't settled in time.

        In the last case each late message brings another cancel, but the broker keeps the consumer and
        revives it with the late ack. And what waits for a worker is late, too, or soon will be.
        """
        tag = frame.method.consumer_tag
        if tag != self._consumer_tag:
            return
        _log.warning("the broker cancelled the consumer of %r; consuming again", self.queue)
        self._consumer_tag = None
        self.on_change()
        if self._channel is None or self._stopping.is_set():
            return
        assert self._workers is not None
        if self.connection.broker_version >= _CANCELS_LATE_SINCE:
            self._workers.hand_back()
        self._channel.cancel(tag)
        self._prepare(self._channel)

    def _on_channel_closed(self, amqp: pika.channel.Channel, reason: BaseException) -> None:
        if amqp is not self._amqp_channel:
            return
        if self._stopping.is_set() and isinstance(reason, ChannelClosed):
            self._close()  # whatever the drain was waiting for won't come
            return
        channel = self._channel
        self._forget_channel()
        if self._stopping.is_set() or not isinstance(reason, ChannelClosed):
            return  # the connection was lost or closed, which has its own course
        _log.warning("the broker closed the channel of %r: %s", self.queue, describe(reason))
        assert channel is not None
        self._unusable(channel, ChannelError(reason.reply_code, reason.reply_text))

    def _unusable(self, channel: Channel, error: MQError) -> None:
        """The queue can't be consumed now: give up if that is final, otherwise try again."""
        if isinstance(error, NotConnected) or self._stopping.is_set():
            return
        if isinstance(error, ChannelError) and error.code in _FORBIDDEN:
            error = input_queue.start_error(self.queue, error)
        if isinstance(error, StartError) and not self._ever_consumed:
            self._fail(error)
            return
        _log.warning("%s; trying again", error)
        self._forget_channel()
        # A fresh connection, because its pauses grow with every failure in a row.
        self.connection.drop()

    def _forget_channel(self) -> None:
        channel = self._channel
        self._channel = self._amqp_channel = self._consumer_tag = None
        if channel is not None:
            channel.end()
            if self._outbox is not None and not self._stopping.is_set():
                self._outbox.returned.on_lost()
            self.on_change()

    def _fail(self, error: MQError) -> None:
        self.failure = error
        self._tell(error)
        self.on_change()
        self.stop(0)

    def _on_handler_error(self, error: Exception) -> None:
        self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self.error_func is None:
            return
        try:
            self.error_func(self, error)
        except BaseException:  # the last line of defence must hold, against SystemExit too
            _log.exception("the error handler of %r failed", self.queue)

    # ---- what the outbox needs

    def _usable_channel(self) -> Channel | None:
        """The channel that replies may leave on: while draining, too, when nothing is consumed."""
        channel = self._channel
        usable = self.is_consuming or self._stopping.is_set()
        return channel if channel is not None and channel.is_open and usable else None

    def _when_answered(self, channel: Channel, answered: Callable[[], None]) -> None:
        """Call back when the broker has dealt with all that was sent on the channel so far.

        It works through a channel in order, so the answer to any method stands behind all returns.
        """
        assert self._limits is not None and self._amqp_channel is not None
        channel.flush()
        self._amqp_channel.basic_qos(
            prefetch_count=self._limits.prefetch, callback=lambda _: answered()
        )

    # ---- the end

    def _begin_stop(self) -> None:
        if (
            self._consumer_tag is not None
            and self._amqp_channel is not None
            and self._amqp_channel.is_open
        ):
            self._amqp_channel.basic_cancel(self._consumer_tag, callback=lambda _: self._drain())
        elif self._channel is not None and self._channel.is_open and self._channel.outstanding:
            self._drain()  # the broker has just cancelled us, but what is in hand is in hand
        else:
            self._close()

    def _remaining(self) -> float:
        return (self._deadline or 0.0) - time.monotonic()

    def _drain(self) -> None:
        """No more deliveries come; wait for those in hand."""
        assert self._workers is not None
        self._consumer_tag = None
        self.on_change()
        returned = self._workers.hand_back()
        if returned:
            _log.info("%d messages that nobody has begun go back to %r", returned, self.queue)
        self._wait_for_workers()

    def _wait_for_workers(self) -> None:
        channel = self._channel
        if channel is None:
            self._close()
            return
        channel.reject_retries()  # those too that a handler has just asked for
        outstanding = channel.outstanding
        resending = bool(self._outbox and self._outbox.returned.waiting)
        if self._remaining() <= 0 or (self._answered and not outstanding and not resending):
            self._close()
        elif outstanding or resending:
            self._answered = False
            self.connection.later(_DRAIN_STEP, self._wait_for_workers)
        else:
            self._wait_for_returns(channel)

    def _wait_for_returns(self, channel: Channel) -> None:
        """The last reply may come back as unroutable: before the answer to a method sent behind it."""

        def answered() -> None:
            self._answered = True
            self._wait_for_workers()

        self._when_answered(channel, answered)

    def _close(self) -> None:
        channel = self._channel
        if channel is not None:
            channel.flush()
            # Here, because the deadline's own timer may be the first to end a drain.
            self.unfinished = channel.outstanding
            if self.unfinished:
                _log.warning(
                    "%d messages are unfinished; the broker has them again", self.unfinished
                )
            self._forget_channel()
        self.connection.close()

    # ---- for the health check

    def look(self, done: Callable[[bool], None]) -> None:
        """Ask the broker itself whether the queue has a consumer; for the connection's loop."""
        channel: Channel | None = self._channel
        if channel is None or not self.is_consuming:
            done(False)
            return
        scratch: Scratch = channel.scratch

        def looked(found: Any, error: MQError | None) -> None:
            done(
                error is None
                and found is not None
                and found.consumer_count > 0
                and self.is_consuming
            )

        scratch.run(input_queue.exists(self.queue), looked)
