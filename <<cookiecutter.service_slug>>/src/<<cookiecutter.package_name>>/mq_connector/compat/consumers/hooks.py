"""What a subclass of a consumer hears of its connection, under the incumbent's names."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from ...logs import Logger

_log = Logger(__name__)

#: Seconds between two looks of `State.wait`.
_LOOK = 0.01


class Hooks:
    """Methods to be overridden. They are called one after the other, on a thread of their own: none can
    keep the connection from its work, and none can change its course."""

    def on_connected(self, connection: Any) -> None:
        """There is a connection, pika's."""

    def on_channel_open(self, new_channel: Any) -> None:
        """There is a channel, as callbacks get it, and its queue is ready."""

    def on_close(self, connection: Any, error: BaseException) -> None:
        """The connection is gone; another is sought unless the consumer was stopped."""

    def on_connection_fail(self, *details: Any) -> None:
        """An attempt at a connection has failed; no more is heard after the one that `error_func` is
        told of, until there is a connection again."""


class Teller:
    """Calls the hooks of one consumer that do anything."""

    def __init__(self, thread: Hooks) -> None:
        self._thread = thread
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._caller: threading.Thread | None = None

    def hears(self, name: str) -> bool:
        """Whether a hook is one of the consumer's own."""
        hook = getattr(self._thread, name)
        return getattr(hook, "__func__", None) is not getattr(Hooks, name)

    def tell(self, name: str, *details: Any) -> None:
        """Call a hook, if it is one of the consumer's own; from the connection's loop."""
        if not self.hears(name):
            return
        hook = getattr(self._thread, name)
        self._calls.put(lambda: hook(*details))
        if self._caller is None:
            self._caller = threading.Thread(target=self._run, name="mq-hooks", daemon=True)
            self._caller.start()

    def end(self, timeout: float) -> None:
        """Wait until all that was told has been heard.

        :param timeout: seconds
        """
        caller = self._caller
        if caller is not None and caller is not threading.current_thread():
            self._calls.put(None)
            caller.join(timeout)
            self._caller = None

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException:  # SystemExit, too: the next one is called
                _log.exception("a hook of %r failed", self._thread)


class State:
    """A condition that can be waited for, as for a `threading.Event`.

    :param is_set: whether it holds
    """

    def __init__(self, is_set: Callable[[], bool]) -> None:
        self.is_set = is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it holds.

        :param timeout: seconds; None for no limit
        :returns: whether it holds
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while not self.is_set() and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return self.is_set()
