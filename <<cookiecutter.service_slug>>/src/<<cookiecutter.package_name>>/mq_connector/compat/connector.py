"""The base class of the incumbent's services."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pika

from ..calling import Caller
from ..connection.broker import permanent_reason
from ..connector import DRAIN
from ..errors import StartError
from ..logs import Logger
from .consumers import BlockingConsumerThread, SelectConsumerThread
from .consumers.consumer import SHARE, NeonConsumerThread
from .consuming import ConsumingConnector
from .signals import install_sigterm_handler, stop_on_sigterm, was_stopped
from .utils.connection_utils import PAUSE, is_there
from .utils.thread_utils import RepeatingTimer

_log = Logger(__name__)

ConsumerThread = BlockingConsumerThread
ConsumerThreadInstance = NeonConsumerThread
SUPPORTED_THREADED_CONSUMERS = (BlockingConsumerThread, SelectConsumerThread)

#: Seconds that `MQConnector.run` waits for a broker.
_MQ_TIMEOUT = 120.0
#: Seconds that its consumers get, after the broker was there, before it returns.
_CONSUMING_WITHIN = 10.0


class MQConnector(ConsumingConnector):
    """Registers consumers, runs them, and sends messages, as a service of Neon's expects it.

    What is private in it and the classes below begins with ``_mq_``, as a service's own names, or those
    of a thread or a mixin that it is as well, may be any; what doesn't is the incumbent's, too.

    :param config: as in ``mq_config.json``; by default it is looked for
    :param service_name: key of the service's credentials under ``users``
    """

    def __init__(self, config: Mapping[str, Any] | None, service_name: str) -> None:
        super().__init__(config, service_name)
        self._mq_attempt = threading.Event()
        self._sync_thread: RepeatingTimer | None = None
        self._observer_thread: RepeatingTimer | None = None
        install_sigterm_handler()  # here, as `run` may be called by a thread that can't

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
        self._mq_attempt.set()  # an earlier one that still waits
        attempt = self._mq_attempt = threading.Event()
        self._asked_to_stop = False
        stop_on_sigterm(self)

        def start() -> None:
            self.pre_run(**kwargs)
            if run_consumers:
                self.run_consumers(kwargs["consumer_names"], kwargs["daemonize_consumers"])
                self._mq_wait_for_consumers(attempt)
            if run_sync and not self.sync_thread.is_alive():
                self.sync_thread.start()
            if run_observer and not self.observer_thread.is_alive():
                self.observer_thread.start()
            self.post_run(**kwargs)
            self._mq_was_run = True

        if self._mq_wait_for_broker(kwargs.get("mq_timeout", _MQ_TIMEOUT), attempt):
            start()
        elif not attempt.is_set():
            _log.error("no broker yet; %s starts when it is there", self.service_name)
            threading.Thread(
                target=self._mq_start_later,
                args=(start, attempt),
                name="mq-start",
                daemon=kwargs["daemonize_consumers"],
            ).start()

    def stop(self, timeout: float = DRAIN) -> None:
        """Finish what is in hand, then end consumers, timers and connections.

        :param timeout: seconds for the callbacks of all consumers
        """
        self._ask_to_stop(timeout)
        for name, consumer in list(self.consumers.items()):
            consumer.join(timeout / SHARE)
            self.consumer_properties.setdefault(name, {})["started"] = False
        self.stop_sync_thread()
        self.stop_observer_thread()
        self._mq_senders.close()
        self._mq_caller.close()
        self._mq_caller = Caller(self)  # it may be run again
        self._mq_was_run = False
        was_stopped(self)

    def _ask_to_stop(self, timeout: float) -> None:
        self._mq_attempt.set()
        super()._ask_to_stop(timeout)

    def _mq_wait_for_broker(self, timeout: float, attempt: threading.Event) -> bool:
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

    def _mq_wait_for_consumers(self, attempt: threading.Event) -> None:
        deadline = time.monotonic() + _CONSUMING_WITHIN
        while not all(consumer.is_consuming for consumer in self._mq_running()):
            for consumer in self._mq_running():
                if consumer.failure is not None:
                    self.stop(0)
                    raise consumer.failure
            if time.monotonic() > deadline or attempt.wait(0.01):
                break

    def _mq_start_later(self, start: Callable[[], None], attempt: threading.Event) -> None:
        """Wait as long as it takes, in a thread."""
        try:
            if self._mq_wait_for_broker(float("inf"), attempt):
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
            self._sync_thread = _timer(self.sync_period, self.sync)
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
            self._observer_thread = _timer(self.observe_period, self.observe_consumers)
        return self._observer_thread

    def stop_observer_thread(self) -> None:
        """End it."""
        if self._observer_thread is not None:
            self._observer_thread.cancel()
            self._observer_thread = None


def _timer(period: float, function: Callable[[], None]) -> RepeatingTimer:
    timer = RepeatingTimer(period, function)
    timer.daemon = True
    return timer
