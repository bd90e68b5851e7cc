"""The base class of a service: its configuration, its vhost, and the consumers that make it one."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from . import config as configuration
from .calling import Caller, Calling
from .connection import Connection
from .connection.address import Address, parameters
from .consumer import ConsumerThread
from .ending import ECHO, Signals, end_after_main, end_within
from .errors import ConfigurationError
from .handlers.life import Life
from .health import HealthServer
from .logs import Logger

if TYPE_CHECKING:
    from .metrics import Metrics
    from .tracing import Tracing

_log = Logger(__name__)

#: Seconds that running callbacks get to finish after a stop was asked for; five less than the grace
#: period of the compose file (and of Kubernetes).
DRAIN = 25.0
#: Seconds that the process gets beyond that to end, and after a second signal.
_LAST_STEPS, _AT_ONCE = 2.0, 2.0
#: Seconds for which all workers have to be in their handlers before `busy` names the consumer.
_TAKES_ITS_TIME = 1.0
#: Seconds after which a signal is handled at the latest. When a process that was stopped (Ctrl-Z) goes on, any of
#: its threads may receive the signal, but Python handles it in the main thread, which that doesn't wake.
_HEARD_WITHIN = 0.5


class MQConnector(Calling):
    """Runs the consumers that a subclass puts into `consumers`.

    A subclass may also have `on_start` (called before the first message), `on_stop` (called after the last one),
    `worker_context`, and methods marked with `every`, see `mq_connector.handlers.life`.

    :param config: a configuration as in ``mq_config.json``; by default it is looked for, when it is
        first needed, in the places of `mq_connector.config.settings.places`
    :param service_name: key of the service's credentials under ``users``
    """

    def __init__(self, config: Mapping[str, Any] | None = None, service_name: str = "") -> None:
        self.service_name = service_name
        self.service_id = uuid.uuid4().hex
        self.consumers: dict[str, ConsumerThread] = {}
        self._connections: dict[str, Connection] = {}
        self._configured = config
        self._vhost = "/"
        self._ended = threading.Event()
        self._life = Life(self)
        #: Whether something other than a consumer has kept the service from starting.
        self._failed = False
        self._asked_to_stop = False
        self._first_signal = 0.0
        #: Timers that end the process if `serve` doesn't return in time.
        self._ends: list[threading.Timer] = []
        self._mq_caller = Caller(self)

    @property
    def vhost(self) -> str:
        """The broker's virtual host; a leading slash is added where it is missing, as Neon does."""
        return self._vhost

    @vhost.setter
    def vhost(self, vhost: str) -> None:
        self._vhost = vhost if vhost.startswith("/") else f"/{vhost}"

    def create_mq_connection(self, vhost: str | None = None) -> Connection:
        """The service's one connection to a vhost; consumers, clients and publishers share it.

        It is opened when the first of them joins it.

        :param vhost: by default the service's own
        """
        return self._mq_connection(self.vhost if vhost is None else vhost)

    def _mq_connection(self, vhost: str) -> Connection:
        """As `create_mq_connection`, which a subclass may override with another meaning."""
        if vhost not in self._connections:
            # In one step, as several threads may ask.
            self._connections.setdefault(vhost, Connection(self.address(vhost)))
        return self._connections[vhost]

    def _mq_is_on_loop(self) -> bool:
        """Whether the caller is on the I/O thread of a connection, on which nothing may wait."""
        consumers = [each.connection for each in list(self.consumers.values())]
        return any(each.is_own_thread for each in [*self._connections.values(), *consumers])

    def address(self, vhost: str | None = None) -> Address:
        """Hosts, vhost and credentials, for a connection apart from the service's own.

        :param vhost: by default the service's own
        """
        name = self.vhost if vhost is None else vhost
        return Address(lambda: parameters(self.settings(), name, self.service_name))

    def settings(self) -> configuration.Settings:
        """The hosts and credentials of the configuration.

        :raises ConfigurationError: with one line that names file, key and remedy
        """
        return configuration.load(self.service_name, self._configured)

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._asked_to_stop

    def check_health(self) -> bool:
        """Whether every consumer is consuming."""
        return bool(self.consumers) and all(
            consumer.is_consuming for consumer in self.consumers.values()
        )

    def run(self) -> None:
        """Call `on_start`, start the consumers and return.

        :raises StartError: `on_start` has raised
        :raises ConfigurationError: the type of a handler's request can't be read, two consumers have one
            queue, or spans are wanted and can't be made
        """
        self._check_queues()
        for sentence in configuration.mistaken():
            _log.warning("%s", sentence)
        tracing = self._load_tracing()
        self._life.begin()
        if tracing is not None:
            tracing.watch(self.consumers.values())
        for consumer in self.consumers.values():
            consumer.on_change = self._on_change
            consumer.around = self._life.around
            consumer.start()
        self._life.go_on()

    def stop(self, timeout: float = DRAIN) -> None:
        """Let the consumers finish the messages that they are handling, and wait for them; then call `on_stop`.

        :param timeout: seconds after which unfinished messages are left for redelivery
        """
        deadline = time.monotonic() + timeout
        self._ask_to_stop(timeout)
        for consumer in self.consumers.values():
            if consumer.is_alive() and consumer is not threading.current_thread():
                consumer.join(timeout + 5.0)
        left = max(0.0, deadline - time.monotonic())
        self._failed |= not self._life.end([*self.consumers.values()], left)
        self._mq_caller.close()

    def serve(self, *, is_supervised: bool = False) -> int:
        """Run until SIGTERM, SIGINT or a failure; for the main thread of a process.

        The first signal drains, a second one ends at once.

        :param is_supervised: whether to leave Ctrl-C, which a terminal sends to all of its processes, to the
            process that has started this one, and that passes it on
        :returns: exit code: 0 after a clean stop, 1 if a consumer could not start or work was cut short
        """
        heeds = [signal.SIGTERM] if is_supervised else [signal.SIGTERM, signal.SIGINT]
        Signals(self._on_signal, heeds).install()
        metrics = self._serve_metrics()
        health = HealthServer(self.service_name, self.look, self.busy)
        try:
            self.run()
            while not self._ended.wait(_HEARD_WITHIN):
                pass
            if not self._ends:  # no signal came, so nothing bounds the stop yet
                self._ends.append(end_within(DRAIN + _LAST_STEPS, 1))
            self.stop()
        finally:
            health.close()
            if metrics is not None:
                metrics.close()
            for timer in self._ends:
                timer.cancel()
            since = time.monotonic() - self._first_signal if self._first_signal else 0.0
            end_after_main(max(_AT_ONCE, DRAIN + _LAST_STEPS - since))
        consumers = self.consumers.values()
        for failure in {str(consumer.failure) for consumer in consumers if consumer.failure}:
            _log.critical("can't start: %s", failure)
        cut_short = any(consumer.failure or consumer.is_cut_short for consumer in consumers)
        return int(self._failed or cut_short)

    def _serve_metrics(self) -> Metrics | None:
        port = configuration.metrics_port()
        if port is None:
            return None
        from .metrics import Metrics  # nothing of it is loaded where nobody wants it

        return Metrics(self.consumers, self.look, port)

    def _load_tracing(self) -> Tracing | None:
        if not configuration.tracing():
            return None
        from .tracing import Tracing

        return Tracing(self._mq_caller)

    def busy(self) -> str:
        """In words, which consumers have had no free worker for more than a second; empty if none."""
        consumers = [(each.queue, each.busy_for) for each in self.consumers.values()]
        return "; ".join(
            f"every worker of {queue!r} has been in its handler for {seconds:.0f} s"
            for queue, seconds in consumers
            if seconds > _TAKES_ITS_TIME
        )

    def look(self, done: Callable[[str], None]) -> None:
        """Find out whether the broker has a consumer of ours on every queue.

        :param done: gets the reason why not; empty if all is well
        """
        if self._life.is_starting:
            done("starting: on_start() hasn't returned yet")
            return
        waiting = dict(self.consumers)
        reasons: list[str] = []
        lock = threading.Lock()

        def looked(name: str, reason: str) -> None:
            with lock:
                consumer = waiting.pop(name)
                if reason:
                    reasons.append(f"not consuming {consumer.queue!r}: {reason}")
                last = not waiting
            if last:
                done("; ".join(reasons))

        if not waiting:
            done("the service has no consumers")
        for name, consumer in self.consumers.items():
            if consumer.is_consuming:
                consumer.connection.call(partial(consumer.look, partial(looked, name)))
            else:
                consumer.look(partial(looked, name))

    def _check_queues(self) -> None:
        """Refuse two consumers of one queue: each would get half of the messages, whichever handler they are for."""
        taken: dict[tuple[Connection, str], str] = {}
        for name, consumer in self.consumers.items():
            other = taken.setdefault((consumer.connection, consumer.queue), name)
            if other != name:
                raise ConfigurationError(
                    f"the consumers {other!r} and {name!r} have one queue, {consumer.queue!r}: a queue has one "
                    "handler; for more messages at a time give its consumer workers=…"
                )

    def _ask_to_stop(self, timeout: float) -> None:
        self._asked_to_stop = True
        self._life.ask_to_stop()
        for consumer in self.consumers.values():
            consumer.stop(timeout)

    def _on_change(self) -> None:
        if any(consumer.failure for consumer in self.consumers.values()):
            self._ended.set()

    def _on_signal(self, number: int, now: float) -> None:
        name = signal.Signals(number).name
        if self._asked_to_stop and now - self._first_signal < ECHO:
            return
        if self._asked_to_stop:
            _log.warning("%s again: ending at once, unfinished messages are delivered again", name)
            self._ends.append(end_within(_AT_ONCE, 1))
            self._ask_to_stop(0)
        else:
            self._first_signal = now
            # Before it has started there is no message to finish.
            starting = self._life.is_starting
            self._ends.append(
                end_within(*((_AT_ONCE, 0) if starting else (DRAIN + _LAST_STEPS, 1)))
            )
            _log.info("%s: finishing what is in hand, for %g s at the most", name, DRAIN)
            self._ask_to_stop(DRAIN)
            self._ended.set()
