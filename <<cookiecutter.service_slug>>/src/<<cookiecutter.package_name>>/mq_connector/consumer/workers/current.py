"""The message that a callback has in hand, and how long its sender waits: found when somebody asks, at no
cost before."""

from __future__ import annotations

import contextlib
import threading
import time
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import pika

from ...channels.origin import SENT_AT
from ..opened import Delivery

#: What all requests of Neon's clients expire after, however long they wait for the reply.
_NEONS = "1000"
#: Some put milliseconds into the property that AMQP has for seconds: as such this is the year 5138.
_MILLISECONDS_FROM = 100_000_000_000
#: Digits of an expiration that are read.
_DIGITS = 15


class InHand(Protocol):
    """Who handles one message at a time: a thread, or a place for a task."""

    #: The thread; None for a task's place, whose context is its own.
    thread: Any
    delivery: Delivery | None
    #: When it was taken (`time.monotonic`).
    began: float


class Current(NamedTuple):
    """A message that is being handled."""

    delivery: Delivery
    #: When it was taken (`time.monotonic`).
    began: float

    @property
    def time_left(self) -> float | None:
        """Seconds for which its sender still waits, below 0 if no more; None where that isn't known.

        A request of Neon's clients expires after a second in the queue, and they wait on: that says nothing.
        """
        properties = self.delivery.properties
        lifetime = _lifetime(properties)
        if lifetime is None:
            return None
        sent = _sent_at(properties)
        left = self.began + lifetime - time.monotonic()
        if sent is not None:
            return min(left, sent + lifetime - time.time())
        return None if properties.expiration == _NEONS else left


#: Set once by a worker's thread, and for each task in the task's context.
in_hand: ContextVar[InHand | None] = ContextVar("in_hand", default=None)


def current() -> Current | None:
    """What the calling callback handles; None outside of one, and in threads that it has begun itself."""
    holder = in_hand.get()
    if holder is None or holder.thread not in (None, threading.current_thread()):
        return None  # a copied context: whose it was may be at the next message
    delivery = holder.delivery
    return None if delivery is None else Current(delivery, holder.began)


def expired_for(properties: pika.BasicProperties) -> float | None:
    """Seconds since a message has expired, by the clocks of its sender and of this machine; None where it
    hasn't, or doesn't say when it was sent. The broker removes by itself what expires in a queue."""
    lifetime, sent = _lifetime(properties), _sent_at(properties)
    if lifetime is None or sent is None:
        return None
    ago = time.time() - sent - lifetime
    return ago if ago > 0 else None


def _lifetime(properties: pika.BasicProperties) -> float | None:
    """Seconds from its sending until it expires."""
    with contextlib.suppress(Exception):  # what a peer has sent as properties may be anything
        text = properties.expiration
        if isinstance(text, str) and text.isdecimal() and len(text) <= _DIGITS:
            return int(text) / 1000
    return None


def _sent_at(properties: pika.BasicProperties) -> float | None:
    """Seconds since 1970, to the end of the second where no more is known."""
    with contextlib.suppress(Exception):
        second: Any = properties.timestamp
        exactly: Any
        if not _is_whole(second) or second <= 0:
            return None
        if second >= _MILLISECONDS_FROM:
            return float(second / 1000)
        exactly = (properties.headers or {}).get(SENT_AT)
        if _is_whole(exactly) and exactly // 1000 == second:
            return float(exactly / 1000)
        return float(second + 1)
    return None


def _is_whole(value: Any) -> bool:
    """Whether it is a number without a fraction; pika has a class of its own for large ones."""
    return isinstance(value, int) and not isinstance(value, bool)
