"""Workers that handle messages without a broker: what is handed to them, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from mq_connector.config import Limits
from mq_connector.consumer.opened import Delivery
from mq_connector.consumer.workers import Workers
from mq_connector.consumer.workers.suspicion import Suspicion
from mq_connector.metrics.counts import Counts
from mq_connector.testing import Outcome
from mq_connector.testing.recording import RecordingChannel, RecordingOpened
from pika.spec import Basic

PATIENCE = 60.0


Callback = Callable[..., None]


class Opened(RecordingOpened):
    """The channel that one message has come by; notes how it is settled, and in which order with what."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.is_open = True
        self.steps: list[str] = []
        self.settled = threading.Event()

    def ack(self, tag: int, multiple: bool = False) -> None:
        self._note("ack")

    def reject(self, tag: int, requeue: bool) -> None:
        self._note("requeue" if requeue else "dead-letter")

    def nack(self, tag: int, requeue: bool) -> None:
        self._note("requeue" if requeue else "dead-letter")

    def reject_later(self, tag: int, seconds: float) -> None:
        self._note(f"requeue after {seconds:g} s")

    def note_late(self, tag: int) -> None:
        """Nothing is counted here."""

    def _note(self, how: str) -> None:
        self.steps.append(how)
        self._outcome.settle(how)
        self.settled.set()


class Delivered:
    """A message handed to workers, and what came of it."""

    def __init__(
        self, tag: int = 1, body: bytes = b"", redelivered: bool = False, **properties: Any
    ) -> None:
        self.outcome = Outcome()
        self.opened = Opened(self.outcome)
        self.channel: Any = RecordingChannel(self.outcome)
        method = Basic.Deliver("ctag", tag, redelivered, "", "input")
        opened: Any = self.opened
        self.delivery = Delivery(opened, method, pika.BasicProperties(**properties), body)
        channels[self.delivery] = self.channel

    def wait(self) -> Outcome:
        assert self.opened.settled.wait(PATIENCE)
        return self.outcome


#: The channel that the callback gets with each delivery.
channels: dict[Delivery, Any] = {}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    channels.clear()


@pytest.fixture
def errors() -> list[Exception]:
    return []


class Running:
    """Workers, the first of which is a thread of ours."""

    def __init__(self, callback: Callback, errors: list[Exception], limits: Limits, **options: Any):
        self.suspicion = Suspicion()
        self.workers = Workers(
            limits,
            "test",
            callback,
            channels.__getitem__,
            errors.append,
            self.suspicion,
            **options,
        )
        self.thread = threading.Thread(target=self.workers.work)

    def start(self) -> Running:
        self.workers.start()
        self.thread.start()
        return self

    def put(self, *deliveries: Delivered) -> None:
        for each in deliveries:
            self.workers.inbox.put(each.delivery)

    def threads(self) -> list[threading.Thread]:
        return [each.thread for each in self.workers._workers]


Make = Callable[..., Running]


@pytest.fixture
def make(errors: list[Exception]) -> Iterator[Make]:
    """Start workers; all of them end with the test."""
    made: list[Running] = []

    def start(callback: Callback, count: int = 1, **options: Any) -> Running:
        limits = options.pop("limits", None) or Limits(workers=count)
        made.append(Running(callback, errors, limits, **options).start())
        return made[-1]

    yield start
    for each in made:
        each.workers.stop()
        for thread in each.threads():
            thread.join(PATIENCE)
            assert not thread.is_alive()


def idle(callback: Callback, errors: list[Exception] | None = None) -> Running:
    """Workers that haven't begun."""
    return Running(callback, [] if errors is None else errors, Limits(workers=1))


def count_handled(counts: Counts, callback: Callable[..., object], *bodies: bytes) -> list[Opened]:
    """Have a consumer's worker handle messages, one of each body."""
    opened_by: list[Opened] = []
    channels: dict[Delivery, Any] = {}

    def no_error(_: Exception) -> None:
        pass

    def call(channel: Any, *given: Any) -> None:
        callback(channel, *given)

    workers = Workers(Limits(), "test", call, channels.__getitem__, no_error, Suspicion())
    workers.observer = counts
    counts.begin(workers)
    for tag, body in enumerate(bodies, 1):
        outcome = Outcome()
        opened: Any = Opened(outcome)
        opened.observer = counts
        opened_by.append(opened)
        method = Basic.Deliver("ctag", tag, False, "", "input")
        delivery = Delivery(opened, method, pika.BasicProperties(message_id="id"), body)
        channels[delivery] = RecordingChannel(outcome)
        workers.inbox.put(delivery)
    workers.inbox.put(None)
    thread = threading.Thread(target=workers.work)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return opened_by


@pytest.fixture(autouse=True)
def no_channels_left() -> Iterator[None]:
    yield
    channels.clear()
