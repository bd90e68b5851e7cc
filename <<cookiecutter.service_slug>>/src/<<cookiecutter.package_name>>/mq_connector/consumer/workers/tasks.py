"""The tasks in which async callbacks go on: as many at a time as there are workers."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...fork import Process
from ...handlers.event_loop import EventLoop, drop, event_loop, until_begun
from ..opened import Delivery, lines
from .aside import Aside
from .busy import Busy
from .current import in_hand
from .settling import ended_by

if TYPE_CHECKING:
    from ..channel import Channel


#: How many may wait for a place; at a stop they are handed back with the others that weren't begun.
_AHEAD = 32


class Settler(Protocol):
    """Settles messages whose tasks have ended; only `failed` may block."""

    def settle(self, delivery: Delivery, channel: Channel) -> str:
        """All went well; returns what has become of it, in words."""

    def failed(self, delivery: Delivery, error: Exception) -> str:
        """It has raised; called on a thread on which this may take long."""

    def was_away(self, busy: Busy, delivery: Delivery, took: float) -> None:
        """It has ended, in whatever way, after ``took`` seconds."""


class Place(Busy):
    """Where one task at a time runs; part of `mq_connector.handlers.event_loop.Job`."""

    __slots__ = ("channel", "context", "coroutine", "task")

    def __init__(self) -> None:
        super().__init__()
        self.coroutine: Any = None
        self.context = contextvars.Context()
        self.task: asyncio.Task[None] | None = None
        self.channel: Any = None


class _Waiting(NamedTuple):
    """What a callback has returned, and for which there is no place yet."""

    delivery: Delivery
    channel: Any
    left: Any
    context: contextvars.Context


class Tasks:
    """Awaits what callbacks have returned, on the process's event loop.

    A few may wait for a place, so that the next one begins as soon as one ends, and not only when a worker has
    been woken for it.

    :param most: how many run at a time
    :param name: the consumer's
    """

    def __init__(self, most: int, name: str, settler: Settler) -> None:
        #: All places, free ones included; empty before the first task.
        self.places: list[Place] = []
        #: For what may have to wait.
        self.aside = Aside(f"{name}-aside")
        self._most = most
        self._settler = settler
        # Guards the two below, of which one is always empty, and that the places are made once.
        self._changed = threading.Condition(threading.Lock())
        self._free: list[Place] = []
        self._waiting: deque[_Waiting] = deque()
        self._loop: EventLoop | None = None
        self._process = Process()
        self._is_over = False

    # ---- from a worker

    def take(self, delivery: Delivery, channel: Channel, left: object) -> bool:
        """Await what a callback has returned, if it can be awaited; blocks while there is no free place.

        :returns: False, with nothing done, for anything else
        :raises TypeError: it is a generator, which nobody would run
        """
        if not isinstance(left, Awaitable):
            if isinstance(left, (Generator, AsyncGenerator)):
                raise TypeError(
                    "the callback yields, so nobody would run it: let answer() yield, and the callback "
                    "return respond(channel, request, self.answer)"
                )
            return False
        loop = self._loop or self._open()
        one = _Waiting(delivery, channel, left, contextvars.copy_context())
        channel.go_on_aside(self.aside.call)
        with self._changed:
            if self._is_over:  # and the message is the broker's again
                drop(left)
                return True
            if not self._free:
                self._waiting.append(one)
                self._wait_for_room(in_hand.get())
                return True
            place = self._free.pop()
        self._fill(place, one)
        loop.begin(place)
        return True

    def _wait_for_room(self, worker: Any) -> None:
        """Keep a worker from taking more than may wait for a place.

        What it has taken waits with the others by then, and isn't its own any more: nobody may find that it is late
        with it.

        :param worker: the `Busy` of this thread, None in a thread that is none
        """
        while len(self._waiting) > _AHEAD and not self._is_over:
            if worker is not None:
                worker.waits = True
            self._changed.wait()
        if worker is not None and worker.waits:
            worker.delivery = None
            worker.waits = False

    def _open(self) -> EventLoop:
        loop = event_loop()
        with self._changed:
            if self._loop is None:
                self.places = [Place() for _ in range(self._most)]
                self._free = list(self.places)
                self._loop = loop
        return loop

    # ---- from any thread

    def add(self) -> None:
        """Make one more place."""
        place = Place()
        self.places.append(place)
        self._go_on(place)

    def hand_back(self) -> list[Delivery]:
        """Give up what waits for a place.

        :returns: the deliveries
        """
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for one in waiting:
            drop(one.left)
        return [one.delivery for one in waiting]

    def stop(self) -> None:
        """Cancel what runs, and begin nothing any more."""
        self._is_over = True
        self.hand_back()
        self.aside.close()
        if self._loop is not None and not self._process.forked:
            self._loop.call(self._cancel)

    def _go_on(self, place: Place, is_on_loop: bool = False) -> None:
        """A place is free: begin what waits."""
        with self._changed:
            self._changed.notify()
            while True:
                one = self._waiting.popleft() if self._waiting else None
                if one is None:
                    self._free.append(place)
                    return
                if one.delivery.opened.is_open:
                    break
                drop(one.left)  # the broker delivers it again on the next channel
        self._fill(place, one)
        if self._loop is not None:
            (self._loop.begin_here if is_on_loop else self._loop.begin)(place)

    def _fill(self, place: Place, one: _Waiting) -> None:
        place.began = time.monotonic()
        place.delivery, place.channel, place.context = one.delivery, one.channel, one.context
        place.context.run(in_hand.set, place)
        place.coroutine = self._run(place, one.delivery, one.left)
        place.coroutine.send(None)

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
        error: Exception | None = None
        has_begun = False
        try:
            await until_begun()
            has_begun = not self._is_over
            if not has_begun:
                return
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
            error = ended_by(raised)
        finally:
            if not has_begun:
                drop(left)
        if self._process.forked:  # a child that a callback has made, and let return
            if self._loop is not None:
                self._loop.stop()
            return
        began, channel = place.began, place.channel
        if error is not None:
            self.aside.call(partial(self._end, place, delivery, began, error))
            error = None  # whose traceback has this frame: the two would keep the message until a garbage collection
            return
        outcome = self._settler.settle(delivery, channel)
        self._over(place, delivery, began, outcome, is_on_loop=True)

    def _end(self, place: Place, delivery: Delivery, began: float, error: Exception) -> None:
        outcome = "lost to an error"
        try:
            outcome = self._settler.failed(delivery, error)
        finally:  # whatever that was, the place is free
            self._over(place, delivery, began, outcome)

    def _over(
        self,
        place: Place,
        delivery: Delivery,
        began: float,
        outcome: str,
        is_on_loop: bool = False,
    ) -> None:
        took = time.monotonic() - began
        self._settler.was_away(place, delivery, took)
        place.delivery = place.channel = place.task = place.coroutine = None
        if place.is_replaced:
            self.places.remove(place)
        else:
            self._go_on(place, is_on_loop)
        if lines.is_said(logging.DEBUG):
            lines.handled(delivery, took, outcome)
