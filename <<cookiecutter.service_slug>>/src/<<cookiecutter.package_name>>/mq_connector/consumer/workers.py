"""The threads on which callbacks run, so that a slow one never delays a heartbeat."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

import pika
from pika.spec import Basic

from ..config import Limits
from ..connection.fork import Process
from ..errors import MQError, RetryMessage
from ..payload import Bounds, bounds
from ..payload.request import error_reply
from .channel import Channel

_log = logging.getLogger(__name__)

#: Seconds that a message waits for its next delivery at the most.
_LONGEST_RETRY = 60.0

#: pika's documented signature of a consumer's callback.
Callback = Callable[[Channel, Basic.Deliver, pika.BasicProperties, bytes], None]
Delivery = tuple[Channel, Basic.Deliver, pika.BasicProperties, bytes]


class Workers:
    """A fixed number of threads that hand deliveries to the callback, in the order of arrival.

    :param limits: how many they are (1 keeps the order of the messages), and what they decode
    :param on_error: told of what a callback raised, after the message was dead-lettered; may not raise
    :param auto_ack: acknowledge what a callback has left unsettled when it returns
    """

    def __init__(
        self,
        limits: Limits,
        name: str,
        callback: Callback,
        on_error: Callable[[Exception], None],
        auto_ack: bool = True,
    ) -> None:
        self.inbox: SimpleQueue[Delivery | None] = SimpleQueue()
        self._callback = callback
        self._on_error = on_error
        self._auto_ack = auto_ack
        self._bounds = Bounds(limits.max_body, limits.max_depth)
        self._process = Process()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-worker-{number}", daemon=True)
            for number in range(1, limits.workers + 1)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each thread end when it has nothing in hand; one that hangs is left behind."""
        for _ in self._threads:
            self.inbox.put(None)

    def hand_back(self) -> int:
        """Return what no thread has begun to its queue.

        :returns: the number of messages
        """
        count = 0
        while True:
            try:
                delivery = self.inbox.get_nowait()
            except Empty:
                return count
            if delivery is not None:
                delivery[0].basic_nack(_tag(delivery), requeue=True)
                count += 1

    def handle(self, delivery: Delivery) -> None:
        """Hand one delivery to the callback and see that it is settled afterwards."""
        channel, method, properties, body = delivery
        try:
            self._callback(channel, method, properties, body)
        except RetryMessage as error:
            self._retry(delivery, error)
        except Exception as error:  # whatever a handler raises, the next message is handled
            self._failed(delivery, error)
        else:
            if self._auto_ack:
                channel.settle(_tag(delivery))

    def _work(self) -> None:
        bounds.set(self._bounds)
        get, handle = self.inbox.get, self.handle
        while True:
            delivery = get()
            if delivery is None:
                return
            if not delivery[0].is_open:
                continue  # the broker delivers it again on the next channel
            try:
                handle(delivery)
            except BaseException as error:  # SystemExit, asyncio.CancelledError: the thread stays
                self._failed(delivery, RuntimeError(f"the callback wanted to end: {error!r}"))
            if self._process.forked:
                return  # a child that a callback has made, and let return: its parent goes on

    def _retry(self, delivery: Delivery, error: RetryMessage) -> None:
        """Hand the message back after a pause, in a way that the broker counts."""
        channel, method, properties, _ = delivery
        headers: Mapping[str, Any] = properties.headers or {}
        count = headers.get("x-delivery-count")
        if count is None and method.redelivered:
            self._failed(delivery, error)  # a queue that doesn't count would never have enough
            return
        pause = min(error.delay * 2 ** min(int(count or 0), 16), _LONGEST_RETRY)
        channel.reject_later(_tag(delivery), pause)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        """Dead-letter the message, answer who waits for it, tell who wants to know."""
        if self._process.forked:
            _log.error("a callback returned in a forked child too: %s", error)
            return
        channel, method, properties, body = delivery
        tag = _tag(delivery)
        bad_body = isinstance(error, MQError)
        _log.error(
            "message %d of %r is dead-lettered: %s: %s",
            tag,
            method.routing_key,
            type(error).__name__,
            error,
            exc_info=None if bad_body else error,
        )
        try:
            reply = None if channel.is_settled(tag) else error_reply(body, properties, error)
            if reply is not None:
                channel.basic_publish("", *reply)
        except Exception:  # no reply is worth losing the message for
            _log.exception("no error reply could be sent")
        channel.basic_reject(tag, requeue=False)
        self._on_error(error)


def _tag(delivery: Delivery) -> int:
    tag = delivery[1].delivery_tag
    assert tag is not None  # whatever was delivered has one
    return tag
