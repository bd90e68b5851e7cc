"""The threads on which callbacks run, so that a slow one never delays a heartbeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from queue import Empty, SimpleQueue

import pika
from pika.spec import Basic

from ...config import Limits
from ...connection.wire.deliveries import Properties
from ...errors import Culprit, Expired
from ...fork import Process
from ...handlers.shapes import is_async
from ...payload import Bounds, bounds
from ..channel import Channel
from ..opened import Delivery, Observer, OpenedChannel, Prefetch, Sizes, lines
from .busy import Busy, all_busy_for, keep_on, latest, why_unhealthy
from .current import expired_for, in_hand
from .pace import SOON, TOGETHER, Pace
from .settling import Settling, ended_by
from .suspicion import Suspicion
from .tasks import Tasks
from .turns import Turns

#: Threads for each worker, the first one included: one fewer may hang and be replaced.
_MOST_REPLACED = 4
#: What has become of a message whose callback goes on as a task.
AWAITED = "awaited"

#: pika's documented signature of a consumer's callback; what it returns is awaited if it can be, and ignored
#: otherwise.
Callback = Callable[[Channel, Basic.Deliver, pika.BasicProperties, bytes], object]


class Workers:
    """Threads that hand deliveries to the callback, in the order of arrival.

    The first of them is the thread that calls `work`. They measure how long the callback takes, on which the best
    prefetch depends.

    :param limits: how many there are (1 keeps the order of the messages), and the bounds of what they decode
    :param channel_of: makes the channel that the callback gets with a delivery
    :param on_error: called with what a callback raised, after the message was dead-lettered; may not raise
    :param suspicion: knows which messages aren't to be tried again
    :param on_pace: called now and then, when another prefetch may be better
    :param ack_on_return: acknowledge what a callback has left unsettled when it returns
    :param watch: calls a function on a loop after some seconds; without it all threads wait at once
    """

    def __init__(
        self,
        limits: Limits,
        name: str,
        callback: Callback,
        channel_of: Callable[[Delivery], Channel],
        on_error: Callable[[Exception], None],
        suspicion: Suspicion,
        on_pace: Callable[[], None] = lambda: None,
        ack_on_return: bool = True,
        watch: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        #: What the workers take: deliveries, other things to call, and None, which ends one worker.
        self.inbox: SimpleQueue[Delivery | Prefetch | Callable[[], object] | None] = SimpleQueue()
        #: Messages that the broker sends ahead, as it was last asked for by `Consumption`.
        self.prefetch = 1
        #: How large the messages are, on which the prefetch depends as well.
        self.sizes = Sizes(limits.workers)
        self._limits = limits
        self._name = name
        self._callback = callback
        self._channel_of = channel_of
        self._suspicion = suspicion
        self._on_pace = on_pace
        self._ack_on_return = ack_on_return
        self._bounds = Bounds(limits.max_body, limits.max_depth)
        self._process = Process()
        self._workers: list[Busy] = []
        self.pace = Pace(limits, on_pace)
        #: Is told how long each callback took, if that is counted.
        self.observer: Observer | None = None
        #: The running tasks of async callbacks.
        self.tasks = Tasks(limits.workers, name, self)
        #: What becomes of a message that isn't simply acknowledged.
        self.settling = Settling(
            limits, channel_of, on_error, on_pace, ack_on_return, self._call_later
        )
        #: Makes the context manager that each thread is inside of while it works, if any.
        self.around: Callable[[], AbstractContextManager[object]] | None = None
        #: Called with what entering it has raised.
        self.on_no_start: Callable[[BaseException], object] = lambda _: None
        self._started = 1
        several = limits.workers > 1 and not is_async(callback)
        self._turns = Turns(watch) if watch is not None and several else None

    # ---- from any thread

    def start(self) -> None:
        """Start all threads but the first; an async callback needs no others, as it only begins tasks."""
        if not is_async(self._callback):
            for _ in range(1, self._limits.workers):
                self._start_one()

    def stop(self) -> None:
        """Let each thread end after the message that it handles; one that hangs is left behind, tasks are cancelled."""
        for _ in range(self._started):
            self.inbox.put(None)
        if self._turns is not None:
            self._turns.open()
        self.tasks.stop()

    def hand_back(self) -> int:
        """Return the messages that no worker has begun to their queue.

        :returns: the number of messages
        """
        waiting: list[object] = [*self.tasks.hand_back()]
        with suppress(Empty):
            while True:
                waiting.append(self.inbox.get_nowait())
        for each in waiting:
            if isinstance(each, Delivery):
                each.opened.nack(each.tag, requeue=True)
            else:
                self.inbox.put(each)  # type: ignore[arg-type]
        return sum(isinstance(each, Delivery) for each in waiting)

    def replace_late(self, opened: OpenedChannel) -> None:
        """Replace the workers that handle messages of a channel for which the broker has waited too long."""
        for busy, delivery, took in latest([*self._workers, *self.tasks.places], opened):
            busy.is_late_with(delivery)
            self._suspicion.hangs(delivery)
            lines.late(delivery, took)
            kind = self._workers if busy.thread is not None else self.tasks.places
            hanging = sum(each.is_replaced and each.is_alive for each in list(kind))
            if hanging < self._limits.workers * (_MOST_REPLACED - 1):
                busy.is_replaced = True
                if busy.thread is not None:
                    self._start_one()
                else:
                    self.tasks.add()

    @property
    def busy(self) -> int:
        """How many callbacks are running."""
        return sum(each.delivery is not None for each in [*self._workers, *self.tasks.places])

    @property
    def busy_for(self) -> float:
        """Seconds for which no worker has been free for another message; 0 where one is."""
        return max(all_busy_for(list(self._workers)), all_busy_for(self.tasks.places))

    @property
    def why_unhealthy(self) -> str:
        """Why nothing will be handled, in words; empty if all is well."""
        stuck, tasks = self._limits.stuck, self.tasks
        return why_unhealthy(stuck, self._workers, tasks.places) or tasks.aside.why_stuck(stuck)

    def _call_later(self, function: Callable[[], object]) -> None:
        """Call what may take long: on a worker, or, where workers may wait for tasks, on the thread beside them."""
        (self.tasks.aside.call if self.tasks.places else self.inbox.put)(function)

    def _start_one(self) -> None:
        self._started += 1
        name = f"{self._name}-worker-{self._started}"
        threading.Thread(target=self.work, name=name, daemon=True).start()

    # ---- the threads

    def work(self) -> None:
        """Be one of the threads, until `stop`."""
        bounds.set(self._bounds)
        worker = Busy(threading.current_thread())
        self._workers.append(worker)
        in_hand.set(worker)
        with ExitStack() as stack:
            if self._turns is not None:
                stack.callback(self._turns.give, worker)
            if self.around is not None:
                try:
                    stack.enter_context(self.around())
                except BaseException as error:  # SystemExit would leave a service that idles
                    self.on_no_start(error)
                    return
            keep_on(self._work, worker, self._process)

    def _work(self, worker: Busy) -> None:
        get, handle, suspicion, now = self.inbox.get, self.handle, self._suspicion, time.monotonic
        pace, is_said, debug = self.pace, lines.is_said, logging.DEBUG
        process, turns, observer = self._process, self._turns, self.observer
        spent, longest, messages = 0.0, 0.0, 0  # since the last `pace.note`
        note = None if observer is None else observer.note
        kind = Delivery  # what deliveries are: an observer may have put another class there
        while not worker.is_replaced:
            if turns is not None and turns.holder is not worker:
                turns.take(worker)
            delivery = get()
            if type(delivery) is not kind:
                if delivery is None:
                    return
                if isinstance(delivery, Delivery):
                    kind = type(delivery)
                elif isinstance(delivery, Prefetch):
                    self.pace.set_prefetch(delivery.messages)
                    continue
                else:
                    if turns is not None:
                        turns.give(worker)  # it may take long, and no turn waits for it
                    worker.call(delivery)
                    continue
            if not delivery.opened.is_open:
                continue  # the broker delivers it again on the next channel
            worker.began = began = now()
            worker.delivery = delivery
            if turns is not None:
                turns.begins(worker, pace)
            if self.prefetch < pace.least and not suspicion.is_careful:
                self._on_pace()  # an earlier attempt found nothing to take
            try:
                if suspicion.is_alert:
                    outcome = self._handle_carefully(worker, delivery)
                else:
                    outcome = handle(delivery)
            except BaseException as error:  # SystemExit, asyncio.CancelledError: the thread goes on
                outcome = self.settling.failed(delivery, ended_by(error))
            if process.forked:
                return  # a child that a callback has made, and let return: its parent goes on
            worker.delivery = None
            if outcome is AWAITED:
                continue
            took = now() - began
            spent += took
            if took > longest:
                longest = took
            if messages == TOGETHER or (messages and spent > SOON):
                # One of them may have waited for the processor, which says nothing of the callback.
                pace.note(spent - longest, messages)
                spent, longest, messages = 0.0, 0.0, 0
                if observer is not None:
                    observer.sort_in()
            else:
                messages += 1
            if note is not None:
                note(took)
            if is_said(debug):
                lines.handled(delivery, took, outcome)
        self._workers.remove(worker)

    def _handle_carefully(self, worker: Busy, delivery: Delivery) -> str:
        verdict = self._suspicion.verdict(delivery)
        if verdict:
            return self.settling.failed(delivery, Culprit(verdict))
        was_careful = self._suspicion.is_careful
        suspected = self._suspicion.suspects(delivery)
        if was_careful and not suspected:
            self._on_pace()
        outcome = self.handle(delivery)
        if outcome is not AWAITED:
            self._was_careful(worker, delivery, suspected)
        return outcome

    def _was_careful(self, busy: Busy, delivery: Delivery, suspected: bool) -> None:
        """A message was handled while there was a suspicion."""
        if suspected:
            self._suspicion.passed()
            if not self._suspicion.is_careful:
                self._on_pace()
        if busy.late is not delivery:
            self._suspicion.returned(delivery)

    def handle(self, delivery: Delivery) -> str:
        """Hand one delivery to the callback and see that it is settled afterwards.

        :returns: what has become of it so far, in words
        """
        properties = delivery.properties
        if type(properties) is not Properties:  # plain ones have no time of sending
            ago = expired_for(properties)
            if ago is not None:
                self.settling.dead_letter(delivery, Expired(ago))  # nobody waits for a reply
                return lines.expired(delivery, ago)
        # Looked up, then called: Python 3.11 caches the look-up of an attribute, but not in one step with a call
        # where the attribute is no method.
        channel_of, callback = self._channel_of, self._callback
        channel = channel_of(delivery)
        try:
            left = callback(channel, delivery.method, properties, delivery.body)
            if left is not None and self.tasks.take(delivery, channel, left):
                return AWAITED
        except Exception as error:  # whatever a handler raises, the next message is handled
            return self.settling.raised(delivery, error)
        if delivery.confirms is None and self._ack_on_return:
            delivery.opened.ack(delivery.tag)
            return "handled"
        return self.settle(delivery, channel)

    # ---- mq_connector.consumer.workers.tasks.Settler

    def settle(self, delivery: Delivery, channel: Channel) -> str:
        """A callback has returned, or was awaited."""
        if delivery.confirms is not None:
            self.settling.confirmed(delivery, delivery.confirms)
        elif self._ack_on_return:
            delivery.opened.ack(delivery.tag)
            return "handled"
        if self._ack_on_return:
            return "handled, waits for confirms"
        channel.leave(self.settling.on_close)
        return "returned"

    def failed(self, delivery: Delivery, error: Exception) -> str:
        """A callback that was awaited has raised."""
        return self.settling.raised(delivery, error)

    def was_away(self, busy: Busy, delivery: Delivery, took: float) -> None:
        """A task has ended.

        :param took: seconds, from its beginning
        """
        self.pace.note(took)
        if self.observer is not None and self.observer.note is not None:
            self.observer.note(took)
            self.observer.sort_in()
        if self._suspicion.is_alert and delivery.opened.is_open:
            self._was_careful(busy, delivery, self._suspicion.is_careful)
