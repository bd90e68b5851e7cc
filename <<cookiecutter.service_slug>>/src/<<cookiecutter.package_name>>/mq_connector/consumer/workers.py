"""The threads on which callbacks run, so that a slow one never delays a heartbeat."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

import pika
from pika.spec import Basic

from ..config import Limits
from ..errors import Culprit, Expired, RetryMessage
from ..fork import Process
from ..logs import text_of
from ..payload import Bounds, bounds
from ..payload.request import error_reply
from .channel import Channel
from .opened import Confirms, Delivery, OpenedChannel, Prefetch, Sizes, lines
from .opened.current import TIMED, expired_for, in_hand
from .opened.messages import deliveries_before
from .pace import Pace
from .suspicion import Suspicion

#: Seconds that a message waits for its next delivery at the most.
_LONGEST_RETRY = 60.0
#: Seconds until a message comes again that can't be settled, as its callback has closed its channel.
_CLOSED_PAUSE = 1.0
#: Deliveries after which a message isn't put back once more.
_MOST_RETRIES = 20
#: Threads for each worker that may be replaced because they hang, itself included.
_MOST_REPLACED = 4

#: Of the thread itself: a consumer, which is one, says otherwise once it is over.
is_alive = threading.Thread.is_alive
#: pika's documented signature of a consumer's callback.
Callback = Callable[[Channel, Basic.Deliver, pika.BasicProperties, bytes], None]


class _Worker:
    """One thread, and what it has in hand."""

    __slots__ = ("began", "delivery", "is_replaced", "late", "thread")

    def __init__(self, thread: threading.Thread) -> None:
        self.thread = thread
        self.delivery: Delivery | None = None
        self.began = 0.0
        #: The last delivery for which the broker has waited too long.
        self.late: Delivery | None = None
        self.is_replaced = False

    @property
    def hangs(self) -> bool:
        """Whether the broker has given up waiting for what it has in hand."""
        return self.late is not None and self.late is self.delivery


class Workers:
    """Threads that hand deliveries to the callback, in the order of arrival.

    The first of them is the thread that calls `work`. They measure how long the callback takes, for the
    number of messages that is worth having in hand.

    :param limits: how many they are (1 keeps the order of the messages), and what they decode
    :param channel_of: makes the channel that the callback gets with a delivery
    :param on_error: told of what a callback raised, after the message was dead-lettered; may not raise
    :param suspicion: which messages aren't to be tried again
    :param on_pace: called now and then, when another number of messages in hand may be better
    :param ack_on_return: acknowledge what a callback has left unsettled when it returns
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
    ) -> None:
        #: What is to be done: deliveries, and what else a worker is to call; None ends one.
        self.inbox: SimpleQueue[Delivery | Prefetch | Callable[[], object] | None] = SimpleQueue()
        #: Messages that the broker sends ahead; set by whoever asks it to.
        self.prefetch = 1
        #: How large they are, for who decides how many to have in hand.
        self.sizes = Sizes(limits.workers)
        self._limits = limits
        self._name = name
        self._callback = callback
        self._channel_of = channel_of
        self._on_error = on_error
        self._suspicion = suspicion
        self._on_pace = on_pace
        self._ack_on_return = ack_on_return
        self._bounds = Bounds(limits.max_body, limits.max_depth)
        self._process = Process()
        self._workers: list[_Worker] = []
        self.pace = Pace(limits, on_pace)
        #: Dead-letters a message that has failed.
        self.bury: Callable[[Delivery, Exception], object] = _reject
        self._started = 1

    # ---- from any thread

    def start(self) -> None:
        """Start the threads but for the first."""
        for _ in range(1, self._limits.workers):
            self._start_one()

    def stop(self) -> None:
        """Let each thread end when it has nothing in hand; one that hangs is left behind."""
        for _ in range(self._started):
            self.inbox.put(None)

    def hand_back(self) -> int:
        """Return what no thread has begun to its queue.

        :returns: the number of messages
        """
        waiting = []
        with suppress(Empty):
            while True:
                waiting.append(self.inbox.get_nowait())
        for each in waiting:
            if isinstance(each, Delivery):
                each.opened.nack(each.tag, requeue=True)
            else:
                self.inbox.put(each)
        return sum(isinstance(each, Delivery) for each in waiting)

    def replace_late(self, opened: OpenedChannel) -> None:
        """The broker has waited too long for some of a channel's messages: others take over from the
        threads that have them in hand.

        It doesn't say which they are. Those of other threads, which go on, have been in hand for a shorter time.
        """
        now = time.monotonic()
        busy = []
        for worker in list(self._workers):
            delivery = worker.delivery
            if delivery is not None and delivery.opened is opened and not worker.hangs:
                busy.append((now - worker.began, worker, delivery))
        longest = max((took for took, *_ in busy), default=0.0)
        for took, worker, delivery in busy:
            if took < longest / 2:
                continue
            worker.late = delivery
            self._suspicion.hangs(delivery)
            lines.late(delivery, took)
            hanging = sum(
                each.is_replaced and is_alive(each.thread) for each in list(self._workers)
            )
            if hanging < self._limits.workers * (_MOST_REPLACED - 1):
                worker.is_replaced = True
                self._start_one()

    @property
    def why_unhealthy(self) -> str:
        """Why nothing will be handled, in words; empty if all is well."""
        workers = [each for each in self._workers if not each.is_replaced]
        alive = [each for each in workers if is_alive(each.thread)]
        if workers and not alive:
            return "no worker is alive"
        if alive and all(each.hangs for each in alive):
            return "every worker has been in its callback for longer than the broker waits"
        stuck = self._limits.stuck
        now = time.monotonic()
        if stuck and alive and all(each.delivery and now - each.began > stuck for each in alive):
            return f"every worker has been in its callback for more than {stuck} s"
        return ""

    def _start_one(self) -> None:
        self._started += 1
        name = f"{self._name}-worker-{self._started}"
        threading.Thread(target=self.work, name=name, daemon=True).start()

    # ---- the threads

    def work(self) -> None:
        """Be one of the threads, until `stop`."""
        bounds.set(self._bounds)
        worker = _Worker(threading.current_thread())
        self._workers.append(worker)
        in_hand.set(worker)
        get, handle, suspicion, now = self.inbox.get, self.handle, self._suspicion, time.monotonic
        pace, is_said, debug = self.pace, lines.is_said, logging.DEBUG
        while not worker.is_replaced:
            delivery = get()
            if not isinstance(delivery, Delivery):
                if delivery is None:
                    return
                if isinstance(delivery, Prefetch):
                    self.pace.say(delivery.messages)
                else:
                    delivery()
                continue
            if not delivery.opened.is_open:
                continue  # the broker delivers it again on the next channel
            worker.began = began = now()
            worker.delivery = delivery
            if self.prefetch < pace.least and not suspicion.is_careful:
                self._on_pace()  # there was nothing to take when it was tried before
            try:
                if suspicion.is_alert:
                    outcome = self._handle_carefully(worker, delivery)
                else:
                    outcome = handle(delivery)
            except BaseException as error:  # SystemExit, asyncio.CancelledError: the thread stays
                outcome = self._failed(
                    delivery, RuntimeError(f"the callback wanted to end: {text_of(error)}")
                )
            if self._process.forked:
                return  # a child that a callback has made, and let return: its parent goes on
            worker.delivery = None
            took = now() - began
            pace.note(took)
            if is_said(debug):
                lines.handled(delivery, took, outcome)
        self._workers.remove(worker)

    def _handle_carefully(self, worker: _Worker, delivery: Delivery) -> str:
        verdict = self._suspicion.verdict(delivery)
        if verdict:
            return self._failed(delivery, Culprit(verdict))
        outcome = ""
        was_careful = self._suspicion.is_careful
        suspected = self._suspicion.suspects(delivery)
        if suspected:
            outcome = self.handle(delivery)
            self._suspicion.passed()
        if was_careful and not self._suspicion.is_careful:
            self._on_pace()
        if not suspected:
            outcome = self.handle(delivery)
        if worker.late is not delivery:
            self._suspicion.returned(delivery)
        return outcome

    def handle(self, delivery: Delivery) -> str:
        """Hand one delivery to the callback and see that it is settled afterwards.

        :returns: what has become of it so far, in words
        """
        properties = delivery.properties
        if getattr(properties, "flags", TIMED) & TIMED == TIMED:
            ago = expired_for(properties)
            if ago is not None:
                self.bury(delivery, Expired(ago))  # nobody waits for a reply
                return lines.expired(delivery, ago)
        channel = self._channel_of(delivery)
        try:
            self._callback(channel, delivery.method, properties, delivery.body)
        except RetryMessage as error:
            return self._retry(delivery, error)
        except Exception as error:  # whatever a handler raises, the next message is handled
            return self._failed(delivery, error)
        if delivery.confirms is not None:
            self._settle_when_confirmed(delivery, delivery.confirms)
        elif self._ack_on_return:
            delivery.opened.ack(delivery.tag)
            return "handled"
        if self._ack_on_return:
            return "handled, waits for confirms"
        channel.leave(self._on_close)
        return "returned"

    def _settle_when_confirmed(self, delivery: Delivery, confirms: Confirms) -> None:
        """The broker's no to a publish is the failure of the message whose callback has published."""

        def confirmed() -> None:
            if self._ack_on_return:
                delivery.opened.ack(delivery.tag)

        # By a worker, as who is told of it may take his time.
        confirms.then(
            confirmed, lambda error: self.inbox.put(partial(self._failed, delivery, error))
        )

    def _on_close(self, delivery: Delivery) -> None:
        """Nobody can settle the message any more, so it comes again, as AMQP has it for a closed channel."""
        if delivery.opened.is_open and not delivery.opened.is_settled(delivery.tag):
            self._retry(delivery, RetryMessage(_CLOSED_PAUSE))

    def _retry(self, delivery: Delivery, error: RetryMessage) -> str:
        """Hand the message back after a pause, in a way that the broker counts."""
        count = deliveries_before(delivery)
        # A queue that doesn't count would never have enough.
        if delivery.method.redelivered if count is None else count >= _MOST_RETRIES:
            return self._failed(delivery, error)
        pause = min(error.delay * 2 ** min(count or 0, 16), _LONGEST_RETRY)
        delivery.opened.reject_later(delivery.tag, pause)
        lines.retried(delivery, pause, count)
        self._on_pace()
        return "to come again"

    def _failed(self, delivery: Delivery, error: Exception) -> str:
        """Dead-letter the message, answer who waits for it, tell who wants to know.

        :returns: what has become of the message, in words
        """
        if self._process.forked:
            lines.forked(delivery, error)
            return ""
        opened, tag = delivery.opened, delivery.tag
        lines.failed(delivery, error)
        try:
            reply = error_reply(delivery.body, delivery.properties, error)
            if reply is not None and not opened.is_settled(tag):
                delivery.confirms = None  # what was published before is of no importance any more
                self._channel_of(delivery).basic_publish("", *reply)
        except Exception:  # no reply is worth losing the message for
            lines.unanswered(delivery)
        self.bury(delivery, error)
        self._on_error(error)
        return "dead-lettered"


def _reject(delivery: Delivery, _: Exception) -> None:
    delivery.opened.reject(delivery.tag, requeue=False)
