"""A supervised connection to one vhost: one `pika.SelectConnection` at a time, and the loop it runs on."""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection

from .fork import Process
from .refusals import describe, permanent_reason
from .transport import Services, Transport

_log = logging.getLogger(__name__)

#: Seconds of the first pause after every host was tried, and of the longest: short enough for a
#: service to consume again within a second of the broker's coming back.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.8
#: Seconds that a broker gets to answer a polite close.
_CLOSE_PATIENCE = 2.0

Parameters = Sequence[pika.ConnectionParameters]


class Listener(Protocol):
    """Hears of a connection's fate, on its loop."""

    def on_open(self) -> None:
        """The connection is open."""

    def on_lost(self) -> None:
        """The connection that was open is gone; another attempt follows unless it was closed."""

    def on_refused(self, reason: str) -> bool:
        """The broker said no, for a reason that time doesn't heal.

        :returns: whether the listener gives up, and closes the connection
        """


class Connection:
    """Where a vhost is, and, once it runs, the connection to it.

    :param parameters: one for each host, in the order in which they are tried; a callable is asked
        when the connection is first opened, so that a service can be made without a configuration
    """

    def __init__(self, parameters: Parameters | Callable[[], Parameters]) -> None:
        self._parameters = parameters
        self._listener: Listener | None = None
        self._loop: IOLoop | None = None
        self._services: Services | None = None
        self._amqp: SelectConnection | None = None
        self._calls: deque[Callable[[], object]] = deque()
        self._awake = threading.Lock()
        self._failures = 0
        self._closing = False
        self._process: Process | None = None
        #: Why the last attempt to connect failed, in words; empty while nothing is wrong.
        self.trouble = ""
        #: Called on the loop, with the number of attempts in a row that have failed, after each.
        self.on_failure: Callable[[int], object] = lambda _: None

    @property
    def parameters(self) -> Parameters:
        """:raises ConfigurationError: when they come from a configuration that lacks something"""
        if callable(self._parameters):
            self._parameters = self._parameters()
        return self._parameters

    def another(self) -> Connection:
        """A connection of its own to the same place."""
        return Connection(self._parameters)

    # ---- from any thread

    @property
    def is_open(self) -> bool:
        """Whether AMQP is spoken right now."""
        amqp = self._amqp
        return amqp is not None and amqp.is_open

    def call(self, function: Callable[[], object]) -> None:
        """Run ``function`` on the loop; many calls cost one wake-up. Dropped once the loop has ended.

        :raises NotConnected: in a process that was forked from the one with the loop
        """
        if self._process is not None:
            self._process.check()
        self._calls.append(function)
        loop = self._loop
        if loop is not None and self._awake.acquire(blocking=False):
            loop.add_callback_threadsafe(self._run_calls)

    # ---- on the loop

    @property
    def amqp(self) -> SelectConnection:
        """pika's connection; only for callers on the loop while it is open."""
        assert self._amqp is not None
        return self._amqp

    @property
    def transport(self) -> Transport:
        """The open connection's stream."""
        assert self._services is not None and self._services.transport is not None
        return self._services.transport

    @property
    def broker_version(self) -> tuple[int, ...]:
        """The broker's version as numbers, (0,) if it doesn't say."""
        properties = getattr(self._amqp, "server_properties", None) or {}
        version = str(properties.get("version", "0")).split("-")[0].split("+")[0]
        return tuple(int(part) for part in version.split(".") if part.isdigit()) or (0,)

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Run ``function`` on the loop after a while."""
        assert self._loop is not None
        self._loop.call_later(seconds, function)

    def run(self, listener: Listener) -> None:
        """Connect, keep connected, and return after `close`.

        The calling thread becomes the loop's: nothing else may block it.
        """
        self._listener = listener
        self._process = Process()
        hosts = self.parameters
        loop = self._loop = IOLoop()
        try:
            loop.add_callback(self._run_calls)
            loop.add_callback(lambda: self._connect(hosts))
            loop.start()
        finally:
            self._loop = None
            if self._services is not None and self._services.transport is not None:
                self._services.transport.shut()
            self._amqp = None
            loop.close()

    def close(self) -> None:
        """Close politely and end `run`."""
        self._closing = True
        amqp = self._amqp
        if amqp is None or not (amqp.is_open or amqp.is_closing):
            # Not while it is opening: pika trips over its own assertion then.
            if self._loop is not None:
                self._loop.stop()
        elif not (amqp.is_closing or amqp.is_closed):
            amqp.close()
            self.later(_CLOSE_PATIENCE, self.drop)

    def proven(self) -> None:
        """The connection does what it is for: the next failure begins with the shortest pause again.

        Merely opening is no proof, or a broker that closes it at once would be asked without a pause.
        """
        self._failures = 0
        self.trouble = ""

    def drop(self) -> None:
        """Give up this connection without a word and open another; for a peer that doesn't answer."""
        if self._services is not None and self._services.transport is not None:
            self._services.transport.fail(ConnectionAbortedError("given up"))

    def sibling(
        self, on_open: Callable[[SelectConnection], None], on_gone: Callable[[str], None]
    ) -> None:
        """A second connection to the same broker on the same loop, for what may cost a connection.

        :param on_gone: called once, with the reason, whether it was open before or not
        """
        assert self._loop is not None
        SelectConnection(
            copy.copy(self.amqp.params),
            on_open_callback=on_open,
            on_open_error_callback=lambda _, error: on_gone(describe(error)),
            on_close_callback=lambda _, error: on_gone(describe(error)),
            custom_ioloop=Services(self._loop),  # type: ignore[arg-type]  # generic in stubs only
        )

    def _run_calls(self) -> None:
        if self._awake.locked():
            self._awake.release()
        while self._calls:
            try:
                self._calls.popleft()()
            except Exception:
                _log.exception("a call on the connection's loop failed")

    def _connect(self, hosts: Parameters) -> None:
        if self._closing:
            self.close()
            return
        assert self._loop is not None
        host = hosts[self._failures % len(hosts)]
        self._services = Services(self._loop)  # type: ignore[arg-type]  # generic in stubs only
        self._amqp = SelectConnection(
            copy.copy(host),
            on_open_callback=lambda _: self._on_open(),
            on_open_error_callback=lambda _, error: self._on_open_error(hosts, host, error),
            on_close_callback=lambda _, error: self._on_close(hosts, error),
            custom_ioloop=self._services,
        )

    def _on_open(self) -> None:
        assert self._listener is not None
        self._listener.on_open()

    def _on_open_error(
        self, hosts: Parameters, host: pika.ConnectionParameters, error: BaseException
    ) -> None:
        assert self._listener is not None
        self._amqp = None
        if self._closing:
            self.close()
            return
        self._failures += 1
        reason = permanent_reason(
            error, host.virtual_host, getattr(host.credentials, "username", "")
        )
        if reason and self._listener.on_refused(reason):
            return
        pause = self._pause(len(hosts))
        self.trouble = f"no connection to {host.host}:{host.port}: {reason or describe(error)}"
        # One line for every step of the pause, then one now and then.
        rounds = self._failures // len(hosts)
        level = logging.WARNING if rounds <= 6 or rounds % 60 == 0 else logging.DEBUG
        _log.log(
            level, "%s; trying again in %.2f s (attempt %d)", self.trouble, pause, self._failures
        )
        self.on_failure(self._failures)
        self._retry(pause, hosts)

    def _on_close(self, hosts: Parameters, error: BaseException) -> None:
        assert self._listener is not None
        self._amqp = None
        self._failures += 1
        self._listener.on_lost()
        if self._closing:
            self.close()
            return
        _log.warning("connection lost: %s; connecting again", describe(error))
        self._retry(self._pause(1), hosts)

    def _pause(self, hosts: int) -> float:
        """Seconds until the next attempt, drawn at random so that services don't come back in step."""
        if self._failures % hosts:
            return 0.0  # the next host may be up
        step = min(self._failures // hosts, 10)
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**step) * (0.5 + os.urandom(1)[0] / 512)

    def _retry(self, pause: float, hosts: Parameters) -> None:
        self.later(pause, lambda: self._connect(hosts))
