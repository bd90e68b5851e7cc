"""Requests of a client's, from `Client.request` to the reply, or to why there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pika

from ..connection.wire.frames import LONGEST_EXPIRATION
from ..errors import MQError, PublishError
from .origin import Origin


class Pending:
    """A request, and who waits for its end.

    :param timeout: seconds from now until it expires
    :param reply_to: the reply queue; None where nobody answers, and the broker's confirm is the end
    :param origin: what goes along; with it the request says when it was sent, so that nobody handles it
        who gets it too late
    :param on_end: called at the end, on whichever thread that comes about
    """

    def __init__(
        self,
        message_id: str,
        body: bytes,
        queue: str,
        timeout: float,
        reply_to: str | None,
        origin: Origin | None = None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.message_id = message_id
        self.timeout = timeout
        self.body = body
        self.queue = queue
        self.reply_to = reply_to
        self.reply: dict[Any, Any] | None = None
        self.error: MQError | None = None
        #: What it was sent on last, so that it leaves on each channel once.
        self.sent_on: object = None
        self._origin = origin
        self._on_end = on_end
        self._deadline = time.monotonic() + timeout
        self._done = threading.Event()

    @property
    def remaining(self) -> int:
        """Milliseconds until it expires; not below 0, and no more than a message can say."""
        left = (self._deadline - time.monotonic()) * 1000
        return int(max(0, min(left, LONGEST_EXPIRATION)))

    @property
    def properties(self) -> pika.BasicProperties:
        """Those that it is published with, now."""
        # `reply_to` is for the error reply to a body that the service can't decode.
        properties = pika.BasicProperties(
            expiration=str(self.remaining), message_id=self.message_id, reply_to=self.reply_to
        )
        if self._origin is not None:
            self._origin.mark(properties)
        return properties

    def wait(self) -> None:
        """Wait for `end`, or until the time is over."""
        left = max(0.0, self._deadline - time.monotonic())
        self._done.wait(min(left, threading.TIMEOUT_MAX))

    def end(self, reply: dict[Any, Any] | None, error: MQError | None = None) -> None:
        """It has its reply, or there will be none."""
        self.reply, self.error = reply, error
        self._done.set()
        self._on_end()


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

    def add(self, request: Pending, before: Callable[[], None]) -> None:
        """One more waits from now on.

        :param before: called first, by one thread at a time; what it raises keeps the request out
        :raises MQError: that of `refuse`, once that was called
        :raises PublishError: there is one of that id, whose reply this one might get
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal.with_traceback(None)  # else it grows with each that is raised
            if request.message_id in self._waiting:
                raise PublishError(
                    f"a request with message_id {request.message_id!r} waits for its reply already"
                )
            before()
            self._waiting[request.message_id] = request

    def forget(self, request: Pending) -> None:
        """Nobody waits for one any more."""
        with self._lock:
            if self._waiting.get(request.message_id) is request:
                del self._waiting[request.message_id]

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
