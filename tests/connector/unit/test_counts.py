"""What a consumer counts: callbacks and replies in buckets, deliveries over several channels."""

from __future__ import annotations

import random
import threading
import time
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from mq_connector.consumer.opened import Delivery, Message, OpenedChannel, Sizes
from mq_connector.metrics.counts import BOUNDS, Counts, Durations
from pika.spec import Basic

from .fakes import FakeLink
from .working import count_handled


def test_what_threads_note_is_counted_once() -> None:
    """Also while it is asked for."""
    counts = Counts()
    seen: list[int] = []

    def work() -> None:
        for _ in range(2000):
            counts.note(0.25)
            counts.sort_in()

    def look() -> None:
        seen.append(sum(counts.durations()[0].buckets))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        look()
    look()
    assert seen == sorted(seen)
    handled, answers = counts.durations()
    assert sum(handled.buckets) == 16_000
    assert handled.total == pytest.approx(4000)
    assert sum(answers.buckets) == 0


def test_what_callbacks_took_is_classed_before_it_grows() -> None:
    counts = Counts()
    count_handled(counts, lambda *_: None, *[b""] * 5000)
    assert len(counts._took) <= 1000
    assert sum(counts.durations()[0].buckets) == 5000


def test_a_callback_that_takes_as_long_as_a_bound_is_below_it() -> None:
    counts = Counts()
    for bound in (BOUNDS[-1] + 1, *BOUNDS, 0.0):
        counts.note(bound)
    handled = counts.durations()[0]
    assert handled.buckets == [2, *[1] * len(BOUNDS)]
    assert handled.total == sum(BOUNDS) + BOUNDS[-1] + 1


class Replying:
    """A channel on which one message is replied to, which came 0.3 s ago."""

    def __init__(self) -> None:
        self.counts = Counts()
        inbox: SimpleQueue[Any] = SimpleQueue()
        link: Any = FakeLink()
        amqp: Any = pika.frame.Method(5, None)  # has a channel_number
        self.opened = OpenedChannel(link, amqp, inbox, Sizes(1))
        self.counts.on_opened(self.opened)
        self.outbox = self.counts.outbox(link)
        self.outbox.on_channel(self.opened, lambda _: None)
        self.delivery = Delivery(
            self.opened, Basic.Deliver("ctag", 1, False, "", "input"), pika.BasicProperties(), b""
        )
        self.delivery.arrived = time.monotonic() - 0.3
        inbox.put(self.delivery)  # more is to be done, so replies wait for each other

    def reply(self, exchange: str = "") -> None:
        self.outbox.publish(self.opened, Message(exchange, "reply", b""), self.delivery)

    @property
    def replies(self) -> tuple[float, float]:
        """How many took 0.25 s or less, and how many there are."""
        cumulated = dict(self.counts.durations()[1].cumulated())
        return cumulated["0.25"], cumulated["+Inf"]


def test_what_one_message_is_answered_with_is_classed_before_it_grows() -> None:
    """A reply may have any number of parts, and nothing else may come meanwhile."""
    replying = Replying()
    for _ in range(5000):
        replying.reply()
        assert len(replying.counts._replied) <= 100
    assert replying.replies == (0, 5000)


def test_a_reply_is_timed_when_it_leaves() -> None:
    replying = Replying()
    replying.opened.collected.burst = 3
    for number in range(1, 8):
        replying.reply()
        assert replying.replies == (0, number // 3 * 3)
    replying.opened.flush()
    assert replying.replies == (0, 7)


def test_a_reply_that_is_lost_with_its_channel_is_not_counted() -> None:
    """Its message comes again."""
    replying = Replying()
    replying.opened.collected.burst = 3
    replying.reply()
    replying.opened.closing()
    replying.opened.flush()
    assert replying.replies == (0, 0)


def test_a_reply_that_waits_for_a_channel_is_counted_at_once() -> None:
    replying = Replying()
    replying.opened.closing()
    replying.outbox.on_lost()
    replying.reply()
    assert replying.replies == (0, 1)


def test_a_number_of_deliveries_never_falls_when_a_channel_follows_another() -> None:
    counts = Counts()
    for last_tag in (7, 0, 5):
        opened: Any = SimpleNamespace(
            last_tag=last_tag, collected=SimpleNamespace(time_replies=lambda _: None)
        )
        counts.on_opened(opened)
    assert counts.received == 12


def test_durations_are_classed_by_their_upper_bound() -> None:
    durations = Durations()
    durations.take([BOUNDS[-1] + 1, 0.0, BOUNDS[0], BOUNDS[0] + 1e-9])
    cumulated = dict(durations.cumulated())
    assert cumulated["0.001"] == 2
    assert cumulated["0.0025"] == 3
    assert cumulated["60.0"] == 3
    assert cumulated["+Inf"] == 4


@pytest.mark.parametrize("number", [1, 2, 7, 500])
def test_durations_are_classed_alike_however_they_are_told(number: int) -> None:
    """One by one, together, or by when they began."""
    chance = random.Random(number)
    for _ in range(50):
        # Multiples of 1/4096 s are exact, so a sum depends on no order; the three others are bounds.
        widest = 4 ** chance.randint(0, 9)
        seconds = [
            chance.choice((0.25, 0.5, 2.5, chance.randint(0, widest) / 4096)) for _ in range(number)
        ]
        one_by_one, together, by_begin = Durations(), Durations(), Durations()
        for each in seconds:
            one_by_one.buckets[sum(bound < each for bound in BOUNDS)] += 1
            one_by_one.total += each
        together.take(list(seconds))
        by_begin.take_until(1024.0, [1024.0 - each for each in seconds])
        for durations in (together, by_begin):
            assert durations.buckets == one_by_one.buckets
            assert durations.total == one_by_one.total
