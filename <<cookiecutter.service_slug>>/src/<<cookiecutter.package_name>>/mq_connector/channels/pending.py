"""Requests of a client's, from `Client.request` to the reply, or to why there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pika

from ..errors import MQError


class Pending:
    """A request, and the thread that waits for its end.

    :param timeout: seconds from now until it expires
    :param reply_to: the reply queue; None where nobody answers, and the broker's confirm is the end
    """

    def __init__(self, body: bytes, queue: str, timeout: float, reply_to: str | None) -> None:
        self.body = body
        self.queue = queue
        self.reply_to = reply_to
        self.reply: dict[Any, Any] | None = None
        self.error: MQError | None = None
        #: What it was sent on last, so that it leaves on each channel once.
        self.sent_on: object = None
        self._deadline = time.monotonic() + timeout
        self._done = threading.Event()

    @property
    def remaining(self) -> int:
        """Milliseconds until it expires; not below 0."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def properties(self, message_id: str) -> pika.BasicProperties:
        """Those that it is published with, now."""
        # `reply_to` is for the error reply to a body that the service can't decode.
        return pika.BasicProperties(
            expiration=str(self.remaining), message_id=message_id, reply_to=self.reply_to
        )

    def wait(self, timeout: float) -> None:
        """Wait for `end`.

        :param timeout: seconds
        """
        self._done.wait(min(timeout, threading.TIMEOUT_MAX))

    def end(self, reply: dict[Any, Any] | None, error: MQError | None = None) -> None:
        """It has its reply, or there will be none."""
        self.reply, self.error = reply, error
        self._done.set()


class PendingRequests:
    """The requests of one client that wait, by their ids; for any thread."""

    def __init__(self) -> None:
        # Guards both below, so that no request comes after the refusal of all.
        self._lock = threading.Lock()
        self._waiting: dict[str, Pending] = {}
        self._refusal: MQError | None = None

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._waiting

    def ids(self) -> list[str]:
        """Those of all that wait, the oldest first."""
        with self._lock:
            return list(self._waiting)

    def get(self, message_id: str) -> Pending | None:
        """One of them, if it still waits."""
        return self._waiting.get(message_id)

    def add(self, message_id: str, request: Pending, before: Callable[[], None]) -> None:
        """One more waits from now on.

        :param before: called first, by one thread at a time; what it raises keeps the request out
        :raises MQError: that of `refuse`, once that was called
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            before()
            self._waiting[message_id] = request

    def forget(self, message_id: str, request: Pending) -> None:
        """Nobody waits for one any more."""
        with self._lock:
            if self._waiting.get(message_id) is request:
                del self._waiting[message_id]

    def end(
        self, message_id: str, reply: dict[Any, Any] | None = None, error: MQError | None = None
    ) -> None:
        """One has its reply, or there will be none."""
        with self._lock:
            request = self._waiting.pop(message_id, None)
        if request is not None:
            request.end(reply, error)

    def refuse(self, error: MQError) -> None:
        """Take no more; the first reason for that stays."""
        with self._lock:
            self._refusal = self._refusal or error

    def end_all(self, error: MQError) -> None:
        """End those that wait."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for each in waiting:
            each.end(None, error)
