"""The threads on which callbacks run, so that a slow one never delays a heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import pika
from pika.spec import Basic

from ..config import Limits
from ..errors import MQError, RetryMessage
from ..fork import Process
from ..logs import Logger
from ..payload import Bounds, bounds
from ..payload.request import REPLY_PROPERTIES, error_reply
from .channel import Channel
from .opened import Confirms, Delivery

_log = Logger(__name__)

#: Seconds that a message waits for its next delivery at the most.
_LONGEST_RETRY = 60.0

#: pika's documented signature of a consumer's callback.
Callback = Callable[[Channel, Basic.Deliver, pika.BasicProperties, bytes], None]


class Workers:
    """A fixed number of threads that hand deliveries to the callback, in the order of arrival.

    The first of them is the thread that calls `work`.

    :param limits: how many they are (1 keeps the order of the messages), and what they decode
    :param channel_of: makes the channel that the callback gets with a delivery
    :param on_error: told of what a callback raised, after the message was dead-lettered; may not raise
    :param auto_ack: acknowledge what a callback has left unsettled when it returns
    """

    def __init__(
        self,
        limits: Limits,
        name: str,
        callback: Callback,
        channel_of: Callable[[Delivery], Channel],
        on_error: Callable[[Exception], None],
        auto_ack: bool = True,
    ) -> None:
        #: What is to be done: deliveries, and what else a worker is to call; None ends one.
        self.inbox: SimpleQueue[Delivery | Callable[[], None] | None] = SimpleQueue()
        self._callback = callback
        self._channel_of = channel_of
        self._on_error = on_error
        self._auto_ack = auto_ack
        self._count = limits.workers
        self._bounds = Bounds(limits.max_body, limits.max_depth)
        self._process = Process()
        self._others = [
            threading.Thread(target=self.work, name=f"{name}-worker-{number}", daemon=True)
            for number in range(2, limits.workers + 1)
        ]

    def start(self) -> None:
        """Start the threads but for the first."""
        for thread in self._others:
            thread.start()

    def stop(self) -> None:
        """Let each thread end when it has nothing in hand; one that hangs is left behind."""
        for _ in range(self._count):
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

    def work(self) -> None:
        """Be one of the threads, until `stop`."""
        bounds.set(self._bounds)
        get, handle = self.inbox.get, self.handle
        while True:
            delivery = get()
            if not isinstance(delivery, Delivery):
                if delivery is None:
                    return
                delivery()
                continue
            if not delivery.opened.is_open:
                continue  # the broker delivers it again on the next channel
            try:
                handle(delivery)
            except BaseException as error:  # SystemExit, asyncio.CancelledError: the thread stays
                self._failed(delivery, RuntimeError(f"the callback wanted to end: {error!r}"))
            if self._process.forked:
                return  # a child that a callback has made, and let return: its parent goes on

    def handle(self, delivery: Delivery) -> None:
        """Hand one delivery to the callback and see that it is settled afterwards."""
        channel = self._channel_of(delivery)
        try:
            self._callback(channel, delivery.method, delivery.properties, delivery.body)
        except RetryMessage as error:
            self._retry(delivery, error)
        except Exception as error:  # whatever a handler raises, the next message is handled
            self._failed(delivery, error)
        else:
            if delivery.confirms is not None:
                self._settle_when_confirmed(delivery, delivery.confirms)
            elif self._auto_ack:
                delivery.opened.ack(delivery.tag)

    def _settle_when_confirmed(self, delivery: Delivery, confirms: Confirms) -> None:
        """The broker's no to a publish is the failure of the message whose callback has published."""

        def confirmed() -> None:
            if self._auto_ack:
                delivery.opened.ack(delivery.tag)

        # By a worker, as who is told of it may take his time.
        confirms.then(
            confirmed, lambda error: self.inbox.put(partial(self._failed, delivery, error))
        )

    def _retry(self, delivery: Delivery, error: RetryMessage) -> None:
        """Hand the message back after a pause, in a way that the broker counts."""
        headers: Mapping[str, Any] = delivery.properties.headers or {}
        count = headers.get("x-delivery-count")
        if count is None and delivery.method.redelivered:
            self._failed(delivery, error)  # a queue that doesn't count would never have enough
            return
        pause = min(error.delay * 2 ** min(int(count or 0), 16), _LONGEST_RETRY)
        delivery.opened.reject_later(delivery.tag, pause)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        """Dead-letter the message, answer who waits for it, tell who wants to know."""
        if self._process.forked:
            _log.error("a callback returned in a forked child too: %s", error)
            return
        opened, tag = delivery.opened, delivery.tag
        bad_body = isinstance(error, MQError)
        _log.error(
            "message %d of %r is dead-lettered: %s: %s",
            tag,
            delivery.method.routing_key,
            type(error).__name__,
            error,
            exc_info=None if bad_body else error,
        )
        try:
            reply = error_reply(delivery.body, delivery.properties, error)
            if reply is not None and not opened.is_settled(tag):
                delivery.confirms = None  # what was published before is of no importance any more
                self._channel_of(delivery).basic_publish("", reply[0], reply[1], REPLY_PROPERTIES)
        except Exception:  # no reply is worth losing the message for
            _log.exception("no error reply could be sent")
        opened.reject(tag, requeue=False)
        self._on_error(error)
