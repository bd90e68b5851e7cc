"""What a service does beside handling messages: before the first, after the last, and periodically."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from ..errors import StartError
from ..logs import Logger, text_of
from .event_loop import Errand, event_loop
from .typed import reader_of

_log = Logger(__name__)

_Method = TypeVar("_Method", bound=Callable[..., Any])

#: Attribute of a method that is called periodically: seconds from one beginning to the next.
_SECONDS = "_mq_every"
#: Seconds that `on_stop` gets at the least, and workers to leave their contexts; and that periodic methods get to end,
#: all together, once they were cancelled.
_AT_LEAST, _CANCELLED_WITHIN = 1.0, 0.25


def every(seconds: float) -> Callable[[_Method], _Method]:
    """Have a method of a service called again and again while it runs, first after this time.

    Its calls never overlap: if one takes longer, the next begins when it has ended. What it raises is logged, and
    the next call comes all the same. It may be async. No call begins once the service is asked to stop, and one
    that runs then has as long as the messages that are being handled.

    :param seconds: from the beginning of one call to that of the next
    :raises ValueError: that isn't more than 0 s
    """
    if not seconds > 0:
        raise ValueError(f"every({seconds}): it must be more than 0 s")

    def mark(method: _Method) -> _Method:
        setattr(method, _SECONDS, float(seconds))
        return method

    return mark


class Life:
    """Calls a service's `on_start`, `on_stop`, `worker_context` and the methods marked with `every`.

    :param service: needs to have none of them
    """

    def __init__(self, service: object) -> None:
        self._service = service
        #: Whether `on_start` is being called.
        self.is_starting = False
        self._has_begun = False
        self._errand: Errand | None = None
        self._stopping = threading.Event()
        self._periodic: list[_Periodic] = []
        #: One worker's `worker_context`, entered; None where there is none.
        self.around: Callable[[], AbstractContextManager[object]] | None = None
        if callable(getattr(service, "worker_context", None)):
            self.around = self._around

    def begin(self) -> None:
        """Check that the handlers' types can be read, and call `on_start`.

        :raises StartError: `on_start` has raised
        :raises ConfigurationError: a type can't be read
        """
        for name in dir(type(self._service)):
            if name.startswith("answer") and callable(getattr(type(self._service), name)):
                reader_of(getattr(self._service, name))
        self.is_starting = True
        try:
            self._call("on_start")
        except Exception as error:
            if self._stopping.is_set():
                return
            _log.debug("on_start() has failed", exc_info=error)
            raise StartError(f"on_start() has failed: {text_of(error)}") from error
        finally:
            self.is_starting = False
        self._has_begun = True

    def go_on(self) -> None:
        """Begin to call the periodic methods."""
        for name in dir(type(self._service)):
            seconds = getattr(getattr(type(self._service), name), _SECONDS, None)
            if seconds is not None:
                method = getattr(self._service, name)
                self._periodic.append(_Periodic(name, method, seconds, self._stopping))
        for each in self._periodic:
            each.start()

    def ask_to_stop(self) -> None:
        """Call nothing any more; cancel an async `on_start`."""
        self._stopping.set()
        errand = self._errand
        if self.is_starting and errand is not None:
            errand.cancel()

    def end(self, consumers: list[Any], timeout: float) -> bool:
        """Wait for the periodic methods, and for the workers' contexts; then call `on_stop`.

        :param consumers: the service's, which have been stopped
        :param timeout: seconds
        :returns: whether all is well
        """
        if not self._has_begun:
            return True
        self._has_begun = False
        deadline = time.monotonic() + timeout
        me = threading.current_thread()
        periodic = [each for each in self._periodic if each is not me]
        for each in periodic:
            each.wait(deadline)
        cancelled = [each for each in periodic if each.cancel()]
        until = time.monotonic() + _CANCELLED_WITHIN
        for each in cancelled:
            each.wait(until)
        if self.around is not None:
            until = max(deadline, time.monotonic() + _AT_LEAST)
            for consumer in consumers:
                # One whose handlers have outlasted the deadline won't leave its context either.
                if consumer is not me and consumer.ident is not None and not consumer.unfinished:
                    threading.Thread.join(consumer, max(0.0, until - time.monotonic()))
        try:
            self._call("on_stop", max(_AT_LEAST, deadline - time.monotonic()))
        except Exception as error:
            _log.error("on_stop() has failed: %s", text_of(error), exc_info=error)
            return False
        return True

    def _call(self, name: str, timeout: float | None = None) -> None:
        hook = getattr(self._service, name, None)
        if callable(hook):
            left = hook()
            if isinstance(left, Awaitable):
                self._errand = event_loop().send(left)
                if self._stopping.is_set() and self.is_starting:
                    self._errand.cancel()
                self._errand.wait(timeout)

    @contextmanager
    def _around(self) -> Iterator[None]:
        context: Any = self._service.worker_context()  # type: ignore[attr-defined]
        if hasattr(context, "__aenter__"):
            loop = event_loop()
            loop.run(context.__aenter__())
            try:
                yield
            finally:
                loop.run(context.__aexit__(None, None, None))
        else:
            with context:
                yield


class _Periodic(threading.Thread):
    """Calls one method periodically, on a thread of its own."""

    def __init__(
        self, name: str, method: Callable[[], Any], seconds: float, stopping: threading.Event
    ) -> None:
        super().__init__(name=f"every-{name}", daemon=True)
        self._method = method
        self._seconds = seconds
        self._stopping = stopping
        self._errand: Errand | None = None

    def run(self) -> None:
        pause = self._seconds
        while not self._stopping.wait(pause):
            began = time.monotonic()
            try:
                left = self._method()
                if isinstance(left, Awaitable):
                    self._errand = event_loop().send(left)
                    self._errand.wait()
            except BaseException as error:  # SystemExit, too: it goes on
                what = "%s(), which is called every %g s, has failed: %s"
                _log.error(
                    what, self._method.__name__, self._seconds, text_of(error), exc_info=error
                )
            pause = max(0.0, self._seconds - (time.monotonic() - began))

    def wait(self, deadline: float) -> None:
        """Wait until it has ended, or until the deadline (`time.monotonic`)."""
        self.join(max(0.0, deadline - time.monotonic()))

    def cancel(self) -> bool:
        """Cancel it if it is async and runs.

        :returns: whether it does
        """
        errand = self._errand
        if errand is None or not self.is_alive():
            return False
        errand.cancel()
        return True
