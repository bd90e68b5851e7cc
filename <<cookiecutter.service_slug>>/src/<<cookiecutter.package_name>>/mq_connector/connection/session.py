"""A connection that runs in the background for a caller who waits for each answer."""

from __future__ import annotations

import threading
from typing import Any

from ..errors import NotConnected, StartError
from .scratch import Result, Scratch, Steps
from .supervised import Connection


class Session:
    """Opens a connection in a thread and runs operations on it, one after the other::

        with Session(connection) as session:
            session.run(steps())

    :param timeout: seconds to wait for the connection, and for each operation
    """

    def __init__(self, connection: Connection, timeout: float = 10.0) -> None:
        self.connection = connection
        self.timeout = timeout
        self._scratch: Scratch | None = None
        self._settled = threading.Event()
        self._refusal: str | None = None
        self._thread = threading.Thread(target=self._loop, name="mq-session", daemon=True)

    def __enter__(self) -> Session:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connect; give up when every host has failed once.

        :raises ConfigurationError: the configuration lacks something
        :raises StartError: the broker refuses us
        :raises NotConnected: nobody answered in time
        """
        hosts = len(self.connection.parameters)

        def failed(attempts: int) -> None:
            if attempts >= hosts:
                self._settled.set()

        self.connection.on_failure = failed
        self._thread.start()
        self._settled.wait(self.timeout)
        if self._scratch is None:
            self.close()
            if self._refusal:
                raise StartError(self._refusal)
            raise NotConnected(self.connection.trouble or f"no connection within {self.timeout} s")

    def run(self, steps: Steps) -> Any:
        """Run a course of operations and return what it returns.

        :raises ChannelError: the broker refused
        :raises NotConnected: the connection was lost
        """
        result = Result()
        self.connection.call(lambda: self._start(steps, result))
        return result.wait(self.timeout)

    def close(self) -> None:
        """Close the connection and wait for its end."""
        self.connection.call(self.connection.close)
        if self._thread.is_alive():
            self._thread.join(self.timeout)

    def _start(self, steps: Steps, result: Result) -> None:
        if self._scratch is None:
            result.set(None, NotConnected(self.connection.trouble or "the connection was lost"))
        else:
            self._scratch.run(steps, result.set)

    def _loop(self) -> None:
        self.connection.run(self)

    # ---- mq_connector.connection.Listener

    def on_open(self) -> None:
        """The connection is open."""
        self._scratch = Scratch(self.connection)
        self.connection.proven()
        self._settled.set()

    def on_lost(self) -> None:
        """The connection is gone."""
        if self._scratch is not None:
            self._scratch.abandon()
            self._scratch = None

    def on_refused(self, reason: str) -> bool:
        """The broker said no."""
        self._refusal = reason
        self._settled.set()
        return True
