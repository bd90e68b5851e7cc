"""A consumer with the incumbent's options: exchanges, exclusive queues, a fresh start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pika
from pika.exchange_type import ExchangeType

from ...connection import Connection, input_queue
from ...connection.scratch import Done, Operation, Steps
from ...consumer import ConsumerThread
from ...consumer.channel import Channel
from ...consumer.opened import OpenedChannel
from ...consumer.workers import Callback
from ...errors import ChannelError, MQError
from ...logs import Logger
from ...topology import Subscription
from ...topology.subscription import private
from ..utils.consumer_utils import default_error_handler
from .hooks import Hooks, State, Teller

_log = Logger(__name__)

#: Seconds for which `join` waits for the hooks of a subclass.
_HOOKS_WITHIN = 1.0
#: Seconds that a callback in hand gets when `join` is told no other time.
_DRAIN = 25.0
#: Part of the time of `join` that is for the callbacks; the rest is for closing the connection.
SHARE = 0.8


def subscriber_queue(exchange: str | None) -> str:
    """A new name for the queue of one subscriber."""
    return Subscription(str(exchange)).draw_queue()


class NeonConsumerThread(Hooks, ConsumerThread):
    """Consumes a queue, or what an exchange sends to it.

    :param connection_params: pika's, for one host or several
    :param callback_func: ``callback(channel, method, properties, body)``, run on a worker thread
    :param error_func: ``error_func(thread, exception)``: what the callback raised, or a
        ConnectionError, once for each time that the broker can't be reached
    :param auto_ack: whether a message is acknowledged when the callback has returned; without, the
        callback has to do it
    :param queue_reset: delete the queue, unless others use it, when the consumer first starts
    :param queue_exclusive: nobody else can use the queue, and it goes with the connection
    :param exchange: declared, and the queue is bound to it
    :param exchange_reset: delete the exchange when the consumer first starts
    :param args: as for `threading.Thread`, of which ``name`` and ``daemon`` count
    """

    def __init__(
        self,
        connection_params: Connection
        | pika.ConnectionParameters
        | Sequence[pika.ConnectionParameters],
        queue: str,
        callback_func: Callback,
        error_func: Callable[[Any, Exception], Any] = default_error_handler,
        auto_ack: bool = True,
        queue_reset: bool = False,
        queue_exclusive: bool = False,
        exchange: str | None = None,
        exchange_reset: bool = False,
        exchange_type: str | ExchangeType | None = ExchangeType.direct,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        queue = queue or subscriber_queue(exchange)
        super().__init__(
            connection_params, queue, callback_func, error_func, ack_on_return=auto_ack
        )
        options = {**dict(zip(("group", "target", "name"), args, strict=False)), **kwargs}
        self.name = options.get("name") or self.name
        daemon = options.get("daemon")
        self.daemon = threading.current_thread().daemon if daemon is None else bool(daemon)
        self.connection_params = connection_params
        self.queue_reset = queue_reset
        self.queue_exclusive = queue_exclusive
        self.exchange = exchange or ""
        self.exchange_reset = exchange_reset
        self.exchange_type = exchange_type or ExchangeType.direct
        #: Attempts to connect that may fail in a row before `error_func` hears of it.
        self.max_connection_failed_attempts = 3
        self.connection_failed_attempts = 0
        self._was_reset = False
        self._told_of_outage = False
        self._hooks = Teller(self)
        self._pika: pika.connection.Connection | None = None
        self._last_channel: Channel | None = None
        self.connection.on_failure = self._on_failure

    @property
    def is_consumer_alive(self) -> bool:
        """Whether it will consume, or does; True before the start and during an outage."""
        return self.failure is None and not self.is_stopping

    @property
    def _consumer_started(self) -> State:
        """Set while it consumes. Private, and yet waited for by programs written for the incumbent."""
        return State(lambda: self.is_consuming)

    @property
    def channel(self) -> Channel | None:
        """The channel as a callback would get it; the last one, closed, where there is none."""
        self._last_channel = super().channel or self._last_channel
        return self._last_channel

    def join(self, timeout: float | None = None) -> None:
        """Stop, and wait for the end.

        :param timeout: seconds, after which unfinished messages are left for redelivery
        """
        self._last_channel = self.channel
        self.stop(_DRAIN if timeout is None else timeout * SHARE)
        if self.ident is not None and self is not threading.current_thread():
            super().join(timeout)
            amqp = self._pika
            if amqp is not None and self._hooks.hears("on_close"):
                State(lambda: amqp.is_closed).wait(_HOOKS_WITHIN)
            self._hooks.end(_HOOKS_WITHIN)

    # ---- on the loop

    def ready_queue(self, opened: OpenedChannel, done: Done) -> None:
        """Part of `ConsumerThread`: resets come before the queue, the exchange behind it."""

        self._tell_of_connection()

        def ready(_: Any, error: MQError | None) -> None:
            if error is None:
                self._hooks.tell("on_channel_open", self.channel)
            done(None, error)

        def reset(_: Any, error: MQError | None) -> None:
            if error is not None:
                ready(None, error)
            elif self.is_private:
                opened.scratch.do(self._declaration(), bind)
            else:
                super(NeonConsumerThread, self).ready_queue(opened, bind)

        def bind(_: Any, error: MQError | None) -> None:
            if error is not None or not self.exchange:
                ready(None, error)
            else:
                kind = getattr(self.exchange_type, "value", self.exchange_type)
                heard = Subscription(self.exchange, kind, (self.queue,))
                opened.scratch.run(heard.bind(self.queue), ready)

        opened.scratch.run(self._reset(), reset)

    def _tell_of_connection(self) -> None:
        self._told_of_outage = False
        self.connection_failed_attempts = 0
        link = self.connection.link
        if link is None or link.amqp is self._pika:
            return
        self._pika = link.amqp
        self._hooks.tell("on_connected", self._pika)
        self._pika.add_on_close_callback(lambda *details: self._hooks.tell("on_close", *details))

    def _on_failure(self, failures: int) -> None:
        self.connection_failed_attempts += 1
        if self._told_of_outage:
            return
        self._hooks.tell("on_connection_fail", self.connection.last_error)
        if self.connection_failed_attempts > self.max_connection_failed_attempts:
            self._told_of_outage = True
            error = ConnectionError(self.connection.last_error)
            # Not on the loop: the handler may take its time.
            threading.Thread(target=self.tell, args=(error,), daemon=True).start()

    @property
    def is_private(self) -> bool:
        """Part of `ConsumerThread`: nobody else will ever declare the queue, it may be of any kind."""
        return self.queue_exclusive or Subscription(self.exchange).is_drawn(self.queue)

    def _declaration(self) -> Operation:
        if self.queue_exclusive:
            return input_queue.declare(self.queue, exclusive=True)
        return private(self.queue)

    def _reset(self) -> Steps:
        first, self._was_reset = not self._was_reset, True
        operations: list[Operation] = []
        if first and self.queue_reset:
            operations.append(
                lambda channel, done: channel.queue_delete(
                    self.queue, if_unused=True, callback=done
                )
            )
        if first and self.exchange and self.exchange_reset:
            operations.append(
                lambda channel, done: channel.exchange_delete(self.exchange, callback=done)
            )
        for operation in operations:
            try:
                yield operation
            except ChannelError as error:
                _log.warning("%r is used as it is: %s", self.queue, error)
