"""A consumer under constant load and under watch, through whatever happens to it."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mq_connector import ConsumerThread, MQConnector, health
from mq_connector.config import Limits
from waiting import eventually

from .broker import Broker
from .load import Load, Watch
from .peer import Peer

#: Seconds from the end of a fault until messages are consumed again.
BOUND = 2.0
#: Seconds within which the health check must notice the beginning and the end of a fault.
NOTICED = 2.0
#: Body of a message whose handling is the fault, see `Served`.
FAULT = b"fault"
#: Pages of memory by which the process may have grown after a fault: 16 MiB, for the ledger's own
#: numbers and what the allocator keeps.
_GROWTH = 16 * 2**20 // os.sysconf("SC_PAGE_SIZE")

Record = Callable[..., None]
Handler = Callable[[Any, Any, Any, bytes], object]
#: glibc's way to give free memory back to the system; None elsewhere.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def resources() -> tuple[int, int]:
    """Threads of this process, and its open files: sockets, pipes and pollers."""
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def pages() -> int:
    """Pages of memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def needed_pages() -> int:
    """The same without what is free, but kept for the next who wants memory: glibc's threads each keep some."""
    if _trim is not None:
        _trim(0)
    return pages()


class Served:
    """A consumer of a quorum queue, under load, watched by the health check.

    :param fault: handles the messages `FAULT`, which don't count for the ledger
    :param pause: see `Load`
    :param reply: see `Load`
    :param options: for pika's connection parameters
    """

    def __init__(
        self,
        broker: Broker,
        queue: str,
        fault: Handler | None = None,
        on_error: Callable[..., Any] | None = None,
        pause: float = 0.002,
        reply: int = 0,
        **options: Any,
    ) -> None:
        self.load = Load(broker, queue, pause, reply=reply)
        self.queue = queue
        #: For each time that `fault` was called, whether the message was redelivered.
        self.calls: list[bool] = []
        self._broker = broker
        self._fault = fault
        limits = Limits(workers=4, prefetch=50, queue_type="quorum")
        self.consumer = ConsumerThread(
            broker.parameters(**options), queue, self._handle, on_error, limits=limits
        )
        self.service = MQConnector(config={}, service_name="functional")
        self.service.consumers = {queue: self.consumer}
        self.consuming = Watch(lambda: self.consumer.is_consuming, every=0.001)
        self.health = Watch(lambda: health.check("functional")[0], every=0.05)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Put it under load; afterwards it must be well, with no more threads, files and memory."""
        with self.load, self.consuming, self.health:
            # Some changes are over before the next sample.
            self.consumer.on_change = self.consuming.look
            time.sleep(0.3)
            before, occupied = resources(), pages()
            yield
            time.sleep(0.3)
            eventually(lambda: self.health.changes[-1][1], NOTICED, "the health check says yes")
            eventually(
                lambda: all(now <= then for now, then in zip(resources(), before, strict=True)),
                what=f"no more than {before} threads and files",
                every=0.02,
            )
            eventually(
                lambda: needed_pages() <= occupied + _GROWTH,
                what=lambda: f"memory has grown: {occupied} pages are {pages()}",
                every=0.1,
            )

    def cause(self, times: int = 1) -> None:
        """Send that many messages `FAULT`, and wait until each has been handled once."""
        peer = Peer(self._broker.parameters())
        for _ in range(times):
            known = len(self.calls)
            peer.publish(self.queue, FAULT)
            eventually(lambda: len(self.calls) > known, what="the fault happens")  # noqa: B023
        peer.close()

    def yes_again(self, since: float) -> float:
        """Seconds from `since` until the health check says yes, now that it should."""
        eventually(lambda: self.health.changes[-1][1], NOTICED, "the health check says yes")
        return max(0.0, self.health.changes[-1][0] - since)

    def _handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if body != FAULT or self._fault is None:
            self.load.handle(channel, method, properties, body)
            return
        self.calls.append(method.redelivered)
        self._fault(channel, method, properties, body)


def notice(
    name: str, one: Served, record: Record, cause: Callable[[], tuple[float, float]]
) -> None:
    """Let an outage happen, long enough for the health check to see it.

    :param cause: returns the times (`time.monotonic`) when the fault began and when it was over
    """
    with one.watched():
        began, over = cause()
        unhealthy = one.health.first(False, began, over - began + NOTICED)
        healthy = one.health.first(True, over, BOUND + NOTICED)
        recovery = max(0.0, one.consuming.changes[-1][0] - over)
    record(
        name,
        bound=BOUND,
        recovery=round(recovery, 3),
        health_false=round(unhealthy, 3),
        health_true=round(healthy, 3),
        **one.load.check(),
    )
    assert unhealthy <= NOTICED
    assert healthy <= NOTICED
    assert recovery <= BOUND


def lasting(
    begin: Callable[[], object], seconds: float, end: Callable[[], object]
) -> Callable[[], tuple[float, float]]:
    """The cause of an outage, as `notice` takes it.

    :param begin: what makes the fault
    :param seconds: how long it is left so
    :param end: what puts it right
    """

    def cause() -> tuple[float, float]:
        began = time.monotonic()
        begin()
        time.sleep(seconds)
        end()
        return began, time.monotonic()

    return cause


def blink(name: str, one: Served, record: Record, cause: Callable[[], Any], times: int = 1) -> None:
    """Let something happen that the consumer recovers from at once, perhaps before anybody looks."""
    longest = latest = 0.0
    with one.watched():
        for _ in range(times):
            began = time.monotonic()
            cause()
            gone = began + one.consuming.first(False, began, 10.0)
            recovery = one.consuming.first(True, gone, BOUND)
            longest = max(longest, recovery)
            latest = max(latest, one.yes_again(gone + recovery))
            time.sleep(0.1)
    record(
        name,
        bound=BOUND,
        recovery=round(longest, 3),
        health_true=round(latest, 3),
        **one.load.check(),
    )


def shrug(name: str, one: Served, record: Record, cause: Callable[[], Any]) -> None:
    """Let something happen that costs the consumer nothing."""
    with one.watched():
        cause()
    assert [state for _, state in one.consuming.changes] == [True], "it stopped to consume"
    assert [state for _, state in one.health.changes] == [True], "the health check said no"
    record(name, recovery="not needed", **one.load.check())
