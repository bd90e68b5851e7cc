"""The base class of the incumbent's services."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pika
from pika.exchange_type import ExchangeType

from ..connection import Connection
from ..connection.address import Address
from ..connection.refusals import permanent_reason
from ..connector import DRAIN
from ..consumer.workers import Callback
from ..errors import MQError, StartError
from .configured import ConfiguredConnector
from .consumers import BlockingConsumerThread, SelectConsumerThread
from .consumers.consumer import NeonConsumerThread, subscriber_queue
from .sending import Message, Senders, emit
from .signals import stop_on_sigterm
from .utils.connection_utils import PAUSE, is_there
from .utils.thread_utils import RepeatingTimer

_log = logging.getLogger(__name__)

ConsumerThread = BlockingConsumerThread
ConsumerThreadInstance = NeonConsumerThread
SUPPORTED_THREADED_CONSUMERS = (BlockingConsumerThread, SelectConsumerThread)

#: Seconds that `MQConnector.run` waits for a broker.
_MQ_TIMEOUT = 120.0
#: Seconds that its consumers get, after the broker was there, before it returns.
_CONSUMING_WITHIN = 10.0
_FALSE = ("", "0", "false", "no", "off")


class MQConnector(ConfiguredConnector):
    """Registers consumers, runs them, and sends messages, as a service of Neon's expects it.

    :param config: as in ``mq_config.json``; by default it is looked for
    :param service_name: key of the service's credentials under ``users``
    """

    #: Whether `consumer_thread_cls` is `SelectConsumerThread`; ``MQ_ASYNC_CONSUMERS=false`` says no.
    async_consumers_enabled: bool = (
        os.environ.get("MQ_ASYNC_CONSUMERS", "true").strip().lower() not in _FALSE
    )
    __max_consumer_restarts__ = -1
    #: Seconds that `stop_consumers` waits for each consumer.
    __consumer_join_timeout__ = 3

    def __init__(self, config: Mapping[str, Any] | None, service_name: str) -> None:
        super().__init__(config, service_name)
        self.consumers: dict[str, Any] = {}
        #: Of each registered consumer: ``properties`` that it was made with, ``restart_attempts``,
        #: ``num_restarted``, ``started`` and, once it is given up, ``dead``.
        self.consumer_properties: dict[str, dict[str, Any]] = {}
        self._was_run = False
        self._attempt = threading.Event()
        self._sync_thread: RepeatingTimer | None = None
        self._observer_thread: RepeatingTimer | None = None
        self._senders = Senders()
        weakref.finalize(self, self._senders.close)

    # ---- state

    @staticmethod
    def create_unique_id() -> str:
        """A new UUID, as 32 hexadecimal digits."""
        return uuid.uuid4().hex

    @property
    def consumer_thread_cls(self) -> type[NeonConsumerThread]:
        """What `register_consumer` makes."""
        return SelectConsumerThread if self.async_consumers_enabled else BlockingConsumerThread

    @property
    def started(self) -> bool:
        """Whether `run` has done its work, every consumer that was started consumes right now, and none
        was given up."""
        dead = any(properties.get("dead") for properties in self.consumer_properties.values())
        return (
            self._was_run
            and not dead
            and all(consumer.is_consuming for consumer in self._running())
        )

    def check_health(self) -> bool:
        """The same as `started`."""
        return self.started

    def _running(self) -> list[NeonConsumerThread]:
        return [
            consumer
            for name, consumer in list(self.consumers.items())
            if self.consumer_properties.get(name, {}).get("started")
        ]

    # ---- sending

    @classmethod
    def emit_mq_message(
        cls,
        connection: pika.BlockingConnection | pika.SelectConnection | Connection,
        request_data: Mapping[Any, Any],
        exchange: str | None = "",
        queue: str | None = "",
        exchange_type: str | ExchangeType = ExchangeType.direct,
        expiration: int = 1000,
    ) -> str:
        """Send a message over a connection that is open; the queue is made where it is missing.

        :param request_data: isn't changed
        :param expiration: milliseconds
        :returns: the message's id: its ``message_id``, that of its ``context.mq``, or a new one
        :raises TypeError: ``request_data`` isn't a dict
        :raises ValueError: ``request_data`` is empty
        """
        message = Message.make(
            request_data,
            exchange=exchange or "",
            queue=queue or "",
            exchange_type=exchange_type,
            expiration=expiration,
        )
        emit(connection, message)
        return message.id

    @classmethod
    def publish_message(
        cls,
        connection: pika.BlockingConnection | pika.SelectConnection | Connection,
        request_data: Mapping[Any, Any],
        exchange: str | None = "",
        expiration: int = 1000,
    ) -> str:
        """As `emit_mq_message`, to all subscribers of an exchange."""
        return cls.emit_mq_message(
            connection,
            request_data,
            exchange=exchange,
            exchange_type=ExchangeType.fanout.value,
            expiration=expiration,
        )

    def send_message(
        self,
        request_data: Mapping[Any, Any],
        vhost: str = "",
        connection_props: Mapping[str, Any] | None = None,
        exchange: str | None = "",
        queue: str | None = "",
        exchange_type: str | ExchangeType = ExchangeType.direct,
        expiration: int = 1000,
    ) -> str:
        """Send a message over a connection that this connector keeps; parameters as elsewhere.

        :param vhost: by default the service's own
        :param connection_props: as for `get_connection_params`
        :returns: the message's id, when the broker has taken it
        :raises PublishError: the broker hasn't taken it
        :raises NotConnected: there is no connection
        :raises StartError: the broker refuses us
        """
        fanout = getattr(exchange_type, "value", exchange_type) == ExchangeType.fanout.value
        message = Message.make(
            request_data,
            exchange=exchange or "",
            queue="" if fanout else queue or "",
            exchange_type=exchange_type,
            expiration=expiration,
        )
        self._send(message, vhost or self.vhost, connection_props or {})
        return message.id

    def _send(
        self, message: Message, vhost: str, options: Mapping[str, Any], make: bool = True
    ) -> None:
        key = (vhost, repr(sorted(options.items())))
        parameters = functools.partial(self.all_connection_params, vhost, **options)
        sender = self._senders.get(key, lambda: Connection(Address(parameters)))
        try:
            sender.send(message, make)
        except StartError:
            self._senders.forget(key)
            raise

    def sync(
        self,
        vhost: str | None = None,
        exchange: str | None = None,
        queue: str | None = None,
        request_data: Mapping[Any, Any] | None = None,
    ) -> None:
        """Tell whoever listens that this service lives; called every `sync_period` seconds.

        :param vhost: by default the service's own
        :param exchange: by default none: the message goes to the queue, if somebody has made it
        :param queue: by default the service's name; ``_sync`` is added to it
        :param request_data: by default ``service_id`` and ``time`` (seconds since 1970)
        """
        data = request_data or {"service_id": self.service_id, "time": int(time.time())}
        message = Message.make(
            data,
            exchange=exchange or "",
            queue=f"{queue or self.service_name}_sync",
            exchange_type=ExchangeType.fanout.value,
        )
        try:
            self._send(message.unbound(), vhost or self.vhost, {}, make=False)
        except MQError as error:
            _log.warning("no sign of life sent: %s", error)

    # ---- consumers

    def register_consumer(
        self,
        name: str,
        vhost: str,
        queue: str,
        callback: Callback,
        on_error: Callable[[Any, Exception], Any] | None = None,
        auto_ack: bool = True,
        queue_reset: bool = False,
        exchange: str | None = None,
        exchange_type: str | ExchangeType | None = None,
        exchange_reset: bool = False,
        queue_exclusive: bool = False,
        skip_on_existing: bool = False,
        restart_attempts: int = __max_consumer_restarts__,
    ) -> None:
        """Make a consumer; `run` or `run_consumers` starts it.

        :param name: a consumer that has it already is stopped and replaced
        :param skip_on_existing: it is left alone instead
        :param restart_attempts: how often `restart_consumer` may make it anew; negative for no limit
        :raises ConfigurationError: something is missing in the configuration

        The other parameters are those of `NeonConsumerThread`.
        """
        if name in self.consumers:
            if skip_on_existing:
                _log.info("there is a consumer %r already", name)
                return
            self.stop_consumers((name,))
        properties: dict[str, Any] = {
            "name": name,
            "connection_params": self.all_connection_params(vhost),
            "queue": queue,
            "queue_reset": queue_reset,
            "callback_func": callback,
            "exchange": exchange,
            "exchange_reset": exchange_reset,
            "exchange_type": exchange_type,
            "error_func": on_error or self.default_error_handler,
            "auto_ack": auto_ack,
            "queue_exclusive": queue_exclusive,
        }
        self.consumer_properties[name] = {
            "properties": properties,
            "restart_attempts": int(restart_attempts),
            "started": False,
        }
        self.consumers[name] = self.consumer_thread_cls(**properties)

    def register_subscriber(
        self,
        name: str,
        vhost: str,
        callback: Callback,
        on_error: Callable[[Any, Exception], Any] | None = None,
        exchange: str | None = None,
        exchange_reset: bool = False,
        auto_ack: bool = True,
        skip_on_existing: bool = False,
        restart_attempts: int = __max_consumer_restarts__,
    ) -> None:
        """Make a consumer of all that is published to a fanout exchange; see `register_consumer`."""
        self.register_consumer(
            name=name,
            vhost=vhost,
            queue=subscriber_queue(exchange),
            callback=callback,
            on_error=on_error,
            exchange=exchange,
            exchange_type=ExchangeType.fanout.value,
            exchange_reset=exchange_reset,
            auto_ack=auto_ack,
            skip_on_existing=skip_on_existing,
            restart_attempts=restart_attempts,
        )

    @staticmethod
    def default_error_handler(thread: Any, exception: Exception) -> None:
        """Log the error of a consumer."""
        _log.error("%r in %s", exception, thread)

    def run_consumers(self, names: Iterable[str] | None = None, daemon: bool = True) -> None:
        """Start consumers; one that was stopped before is made anew.

        :param names: by default all
        :param daemon: whether the process may end while they run
        """
        for name in names or list(self.consumers):
            consumer = self.consumers.get(name)
            if consumer is None or (consumer.is_alive() and consumer.is_consumer_alive):
                continue
            properties = self.consumer_properties.setdefault(name, {})
            if not consumer.is_consumer_alive:
                if properties.get("dead") or "properties" not in properties:
                    continue
                consumer = self.consumer_thread_cls(**properties["properties"])
                self.consumers[name] = consumer
            consumer.daemon = daemon
            consumer.on_change = self._on_change
            consumer.start()
            properties["started"] = True

    def stop_consumers(self, names: Iterable[str] | None = None) -> None:
        """Stop consumers and wait for their end.

        :param names: by default all
        """
        chosen = [name for name in names or list(self.consumers) if name in self.consumers]
        for name in chosen:
            self.consumers[name].stop(self.__consumer_join_timeout__)
        for name in chosen:
            self.consumers[name].join(self.__consumer_join_timeout__)
            if self.consumers[name].is_alive():
                _log.error("consumer %r hasn't ended in time", name)
            self.consumer_properties.setdefault(name, {})["started"] = False

    def restart_consumer(self, name: str) -> None:
        """Stop a consumer and run another in its place, unless it was restarted often enough.

        One with an exclusive queue is given up, as what waited in the queue is gone.
        """
        properties = self.consumer_properties.get(name, {})
        attempts = properties.get("restart_attempts", self.__max_consumer_restarts__)
        self.stop_consumers((name,))
        if "properties" not in properties:
            trouble = "it isn't registered"
        elif 0 <= attempts <= properties.get("num_restarted", 0):
            trouble = f"it has been restarted {attempts} times"
        elif properties["properties"]["queue_exclusive"]:
            trouble = "its queue was exclusive"
        else:
            properties["num_restarted"] = properties.get("num_restarted", 0) + 1
            self.consumers[name] = self.consumer_thread_cls(**properties["properties"])
            self.run_consumers((name,))
            return
        self.consumer_properties.setdefault(name, {})["dead"] = True
        self.consumers.pop(name, None)
        _log.error("consumer %r isn't restarted: %s", name, trouble)

    def observe_consumers(self) -> None:
        """Restart the consumers that the broker has refused; the others need no help."""
        for name, consumer in list(self.consumers.items()):
            started = self.consumer_properties.get(name, {}).get("started")
            if started and not (consumer.is_alive() and consumer.is_consumer_alive):
                self.restart_consumer(name)

    # ---- from start to end

    def pre_run(self, **kwargs: Any) -> None:
        """Called by `run` when the broker is there, before the consumers start; for subclasses."""

    def post_run(self, **kwargs: Any) -> None:
        """Called by `run` at its end; for subclasses."""

    def run(
        self,
        run_consumers: bool = True,
        run_sync: bool = True,
        run_observer: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Wait for the broker, start, and return when the consumers consume.

        Where the broker isn't there in time, it is waited for in the background.

        :param run_observer: by default with `BlockingConsumerThread`
        :param kwargs: ``mq_timeout``, seconds to wait for the broker (120); ``consumer_names``, by
            default all; ``daemonize_consumers``, whether the process may end while they run (False);
            all of them are handed to `pre_run` and `post_run`
        :raises StartError: the broker refuses us, which waiting doesn't heal
        :raises ConfigurationError: something is missing in the configuration
        """
        kwargs.setdefault("consumer_names", ())
        kwargs.setdefault("daemonize_consumers", False)
        if run_observer is None:
            run_observer = self.consumer_thread_cls is BlockingConsumerThread
        self._attempt.set()  # an earlier one that still waits
        attempt = self._attempt = threading.Event()
        self._asked_to_stop = False
        stop_on_sigterm(self)

        def start() -> None:
            self.pre_run(**kwargs)
            if run_consumers:
                self.run_consumers(kwargs["consumer_names"], kwargs["daemonize_consumers"])
                self._wait_for_consumers(attempt)
            if run_sync and not self.sync_thread.is_alive():
                self.sync_thread.start()
            if run_observer and not self.observer_thread.is_alive():
                self.observer_thread.start()
            self.post_run(**kwargs)
            self._was_run = True

        if self._wait_for_broker(kwargs.get("mq_timeout", _MQ_TIMEOUT), attempt):
            start()
        elif not attempt.is_set():
            _log.error("no broker yet; %s starts when it is there", self.service_name)
            threading.Thread(
                target=self._start_later,
                args=(start, attempt),
                name="mq-start",
                daemon=kwargs["daemonize_consumers"],
            ).start()

    def stop(self, timeout: float = DRAIN) -> None:
        """Finish what is in hand, then end consumers, timers and connections.

        :param timeout: seconds for all consumers
        """
        self._ask_to_stop(timeout)
        for name, consumer in list(self.consumers.items()):
            consumer.join(timeout)
            self.consumer_properties.setdefault(name, {})["started"] = False
        self.stop_sync_thread()
        self.stop_observer_thread()
        self._senders.close()
        self._was_run = False

    def _ask_to_stop(self, timeout: float) -> None:
        self._attempt.set()
        super()._ask_to_stop(timeout)

    def _wait_for_broker(self, timeout: float, attempt: threading.Event) -> bool:
        hosts = self.all_connection_params(self.vhost)
        parameters = hosts[0]
        deadline = time.monotonic() + timeout
        try:
            while not attempt.is_set():
                for parameters in hosts:
                    if is_there(parameters.host, parameters.port, parameters):
                        return True
                if time.monotonic() >= deadline:
                    break
                attempt.wait(PAUSE)
        except pika.exceptions.AMQPError as error:
            username = getattr(parameters.credentials, "username", "")
            reason = permanent_reason(error, self.vhost, username)
            raise StartError(reason or str(error)) from None
        return False

    def _wait_for_consumers(self, attempt: threading.Event) -> None:
        deadline = time.monotonic() + _CONSUMING_WITHIN
        while not all(consumer.is_consuming for consumer in self._running()):
            for consumer in self._running():
                if consumer.failure is not None:
                    self.stop(0)
                    raise consumer.failure
            if time.monotonic() > deadline or attempt.wait(0.01):
                break

    def _start_later(self, start: Callable[[], None], attempt: threading.Event) -> None:
        """Wait as long as it takes, in a thread."""
        try:
            if self._wait_for_broker(float("inf"), attempt):
                start()
        except Exception as error:
            _log.critical("%s can't start: %s", self.service_name, error)
            self._failed = True
            self._ended.set()

    # ---- timers

    @property
    def sync_thread(self) -> RepeatingTimer:
        """Calls `sync`; a new one unless it runs."""
        if self._sync_thread is None or not self._sync_thread.is_alive():
            self._sync_thread = self._timer(self.sync_period, self.sync)
        return self._sync_thread

    def stop_sync_thread(self) -> None:
        """End it."""
        if self._sync_thread is not None:
            self._sync_thread.cancel()
            self._sync_thread = None

    @property
    def observer_thread(self) -> RepeatingTimer:
        """Calls `observe_consumers`; a new one unless it runs."""
        if self._observer_thread is None or not self._observer_thread.is_alive():
            self._observer_thread = self._timer(self.observe_period, self.observe_consumers)
        return self._observer_thread

    def stop_observer_thread(self) -> None:
        """End it."""
        if self._observer_thread is not None:
            self._observer_thread.cancel()
            self._observer_thread = None

    def _timer(self, period: float, function: Callable[[], None]) -> RepeatingTimer:
        timer = RepeatingTimer(period, function)
        timer.daemon = True
        return timer
