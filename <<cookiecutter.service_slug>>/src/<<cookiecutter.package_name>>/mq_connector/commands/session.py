"""A connection that runs in the background for a caller who waits for each answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..connection.address import Address, Parameters
from ..connection.link import Link
from ..connection.scratch import Done, Operation, Result, Scratch, Steps
from ..connection.supervised import Connection
from ..errors import NotConnected, StartError


class Session:
    """Opens a connection in a thread and runs operations on it, one after the other::

        with Session(address) as session:
            session.run(steps())

    :param address: where to; the connection is the session's own
    :param timeout: seconds to wait for the connection, and for each operation
    """

    def __init__(self, address: Address | Parameters, timeout: float = 10.0) -> None:
        self.connection = Connection(address)
        self.timeout = timeout
        self._link: Link | None = None
        self._scratch: Scratch | None = None
        self._settled = threading.Event()
        self._refusal: str | None = None

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
        hosts = len(self.connection.address.parameters)

        def failed(attempts: int) -> None:
            if attempts >= hosts:
                self._settled.set()

        self.connection.on_failure = failed
        self.connection.join(self)
        self._settled.wait(self.timeout)
        if self._scratch is None:
            self.close()
            if self._refusal:
                raise StartError(self._refusal)
            raise NotConnected(
                self.connection.last_error or f"no connection within {self.timeout} s"
            )

    @property
    def is_well(self) -> bool:
        """Part of `mq_connector.connection.supervised.Member`."""
        return self._scratch is not None

    @property
    def link(self) -> Link:
        """The connection, while it lives.

        :raises NotConnected: it was lost
        """
        if self._link is None:
            raise NotConnected(self.connection.last_error or "the connection was lost")
        return self._link

    def run(self, steps: Steps) -> Any:
        """Run operations one after the other and return what the steps return.

        :raises ChannelError: the broker refused
        :raises NotConnected: the connection was lost
        """
        return self._ask(lambda scratch, done: scratch.run(steps, done))

    def do(self, operation: Operation) -> Any:
        """Run one operation and return its result; raises as `run`."""
        return self._ask(lambda scratch, done: scratch.do(operation, done))

    def close(self) -> None:
        """Close the connection and wait for its end."""
        self.connection.quit(self, self.timeout)

    def _ask(self, ask: Callable[[Scratch, Done], None]) -> Any:
        result = Result()

        def start() -> None:
            if self._scratch is None:
                lost = self.connection.last_error or "the connection was lost"
                result.set(None, NotConnected(lost))
            else:
                ask(self._scratch, result.set)

        self.connection.call(start)
        return result.wait(self.timeout)

    # ---- on the loop: mq_connector.connection.supervised.Member

    def on_open(self, link: Link) -> None:
        """There is a link."""
        self._link, self._scratch = link, Scratch(link)
        self.connection.used()
        self._settled.set()

    def on_lost(self, error: BaseException) -> None:
        """The link is gone."""
        if self._scratch is not None:
            self._scratch.abandon()
        self._link = self._scratch = None

    def on_refused(self, reason: str) -> None:
        """The broker said no."""
        self._refusal = reason
        self._settled.set()
