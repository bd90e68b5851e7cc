"""What a connector of Neon's consumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pika.exchange_type import ExchangeType

from ..consumer.workers import Callback
from ..logs import Logger
from .consumers import BlockingConsumerThread, SelectConsumerThread
from .consumers.consumer import NeonConsumerThread, subscriber_queue
from .messaging import MessagingConnector

_log = Logger(__name__)

_FALSE = ("", "0", "false", "no", "off")


class ConsumingConnector(MessagingConnector):
    """A connector that keeps consumers under names.

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
        self._mq_was_run = False

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
            self._mq_was_run
            and not dead
            and all(consumer.is_consuming for consumer in self._mq_running())
        )

    def check_health(self) -> bool:
        """The same as `started`."""
        return self.started

    def _mq_running(self) -> list[NeonConsumerThread]:
        return [
            consumer
            for name, consumer in list(self.consumers.items())
            if self.consumer_properties.get(name, {}).get("started")
        ]

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
            reason = "it isn't registered"
        elif 0 <= attempts <= properties.get("num_restarted", 0):
            reason = f"it has been restarted {attempts} times"
        elif properties["properties"]["queue_exclusive"]:
            reason = "its queue was exclusive"
        else:
            properties["num_restarted"] = properties.get("num_restarted", 0) + 1
            self.consumers[name] = self.consumer_thread_cls(**properties["properties"])
            self.run_consumers((name,))
            return
        self.consumer_properties.setdefault(name, {})["dead"] = True
        self.consumers.pop(name, None)
        _log.error("consumer %r isn't restarted: %s", name, reason)

    def observe_consumers(self) -> None:
        """Restart the consumers that the broker has refused; the others need no help."""
        for name, consumer in list(self.consumers.items()):
            started = self.consumer_properties.get(name, {}).get("started")
            if started and not (consumer.is_alive() and consumer.is_consumer_alive):
                self.restart_consumer(name)
