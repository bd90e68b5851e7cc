"""The tasks in which callbacks go on that are async: as many at a time as there are workers."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Generator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from ...fork import Process
from ...handlers.event_loop import EventLoop, event_loop
from ...logs import text_of
from ..opened import Delivery, lines
from .aside import Aside
from .busy import Busy
from .current import in_hand

if TYPE_CHECKING:
    from ..channel import Channel


class Settler(Protocol):
    """What becomes of a message whose task has ended; none of it may wait, but for `failed`."""

    def settle(self, delivery: Delivery, channel: Channel) -> str:
        """All went well; returns what has become of it, in words."""

    def failed(self, delivery: Delivery, error: Exception) -> str:
        """It has raised; called on a thread where it may take its time."""

    def was_away(self, busy: Busy, delivery: Delivery, took: float) -> None:
        """It is over, after so many seconds, whatever came of it."""


class Place(Busy):
    """Where one task at a time runs; part of `mq_connector.handlers.event_loop.Job`."""

    __slots__ = ("channel", "context", "coroutine", "task")

    def __init__(self) -> None:
        super().__init__()
        self.coroutine: Any = None
        self.context = contextvars.Context()
        self.task: asyncio.Task[None] | None = None
        self.channel: Any = None


class Tasks:
    """Runs what callbacks have left to be awaited, on the process's event loop.

    :param most: how many at a time
    :param name: of the consumer
    """

    def __init__(self, most: int, name: str, settler: Settler) -> None:
        #: Those that there are, free ones included; none before the first task.
        self.places: list[Place] = []
        #: For what may have to wait.
        self.aside = Aside(f"{name}-aside")
        self._most = most
        self._settler = settler
        # Guards that the places are made once.
        self._lock = threading.Lock()
        self._free: SimpleQueue[Place | None] = SimpleQueue()
        self._loop: EventLoop | None = None
        self._process = Process()
        self._is_over = False

    # ---- from a worker

    def take(self, delivery: Delivery, channel: Channel, left: object) -> bool:
        """Go on with what a callback has returned, if that is to be awaited; waits for a free place.

        :returns: False, with nothing done, for anything else
        :raises TypeError: nobody would run it: a generator
        """
        if not isinstance(left, Awaitable):
            if isinstance(left, (Generator, AsyncGenerator)):
                raise TypeError(
                    "the callback yields, so nobody would run it: let answer() yield, and the callback "
                    "return respond(channel, request, self.answer)"
                )
            return False
        loop = self._loop or self._open()
        place = self._free.get()
        if place is None:  # all is over, and the message is the broker's again
            self._free.put(None)
            _drop(left)
            return True
        place.began = time.monotonic()
        place.delivery = delivery
        place.channel = channel
        place.context = contextvars.copy_context()
        place.context.run(in_hand.set, place)
        place.coroutine = self._run(place, delivery, left)
        channel.go_on_aside(self.aside.call)
        loop.begin(place)
        return True

    def _open(self) -> EventLoop:
        loop = event_loop()
        with self._lock:
            if self._loop is None:
                for _ in range(self._most):
                    self.add()
                self._loop = loop
        return loop

    # ---- from any thread

    def add(self) -> None:
        """Make one more place."""
        place = Place()
        self.places.append(place)
        self._free.put(place)

    def stop(self) -> None:
        """Cancel what runs; nothing is begun any more."""
        self._is_over = True
        self._free.put(None)
        self.aside.close()
        if self._loop is not None and not self._process.forked:
            self._loop.call(self._cancel)

    def wait(self, timeout: float) -> bool:
        """Wait until nothing runs; for tests.

        :returns: whether that is so within this time, in seconds
        """
        deadline = time.monotonic() + timeout
        while any(place.delivery is not None for place in self.places):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        done = threading.Event()
        self.aside.call(done.set)
        return done.wait(max(0.0, deadline - time.monotonic()))

    # ---- on the event loop

    def _cancel(self) -> None:
        for place in self.places:
            if place.task is not None and place.delivery is not None:
                place.task.cancel()

    async def _run(self, place: Place, delivery: Delivery, left: Awaitable[object]) -> None:
        if self._is_over:
            _drop(left)
            return
        error: Exception | None = None
        try:
            await left
        except GeneratorExit:
            raise
        except Exception as raised:
            error = raised
        except (
            BaseException
        ) as raised:  # SystemExit would end the loop, CancelledError may be anybody's
            if self._is_over:
                return
            error = RuntimeError(f"the callback wanted to end: {text_of(raised)}")
        if self._process.forked:  # a child that a callback has made, and let return
            if self._loop is not None:
                self._loop.stop()
            return
        began, channel = place.began, place.channel
        if error is not None:
            failure = error
            self.aside.call(lambda: self._end(place, delivery, began, failure))
            return
        outcome = self._settler.settle(delivery, channel)
        self._over(place, delivery, began, outcome)

    def _end(self, place: Place, delivery: Delivery, began: float, error: Exception) -> None:
        self._over(place, delivery, began, self._settler.failed(delivery, error))

    def _over(self, place: Place, delivery: Delivery, began: float, outcome: str) -> None:
        took = time.monotonic() - began
        self._settler.was_away(place, delivery, took)
        place.delivery = place.channel = place.task = place.coroutine = None
        if place.is_replaced:
            self.places.remove(place)
        else:
            self._free.put(place)
        if lines.is_said(logging.DEBUG):
            lines.handled(delivery, took, outcome)


def _drop(left: object) -> None:
    """Nobody will await it, of which Python would warn."""
    close = getattr(left, "close", None)
    if close is not None:
        close()
