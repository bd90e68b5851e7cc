"""A consumer that makes room for another one: when it is cancelled, and when it stays."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pika
import pytest
from mq_connector.consumer.opened import OpenedChannel, Sizes
from mq_connector.consumer.opened.replacement import Replacement
from pika.spec import Basic

from .fakes import FakeChannel, FakeLink

PREFETCH = 4


class Setup:
    """An opened channel that has got some deliveries, of which the first is acknowledged."""

    def __init__(self) -> None:
        self.link = FakeLink()
        self.amqp = FakeChannel(5)
        self.link_, self.amqp_ = self._anything(self.link), self._anything(self.amqp)
        self.opened = OpenedChannel(self.link_, self.amqp_, SimpleQueue(), Sizes(1))
        self.ended: list[bool] = []

    @staticmethod
    def _anything(fake: Any) -> Any:
        return fake

    def deliver(self, count: int) -> None:
        for tag in range(self.opened.last_tag + 1, self.opened.last_tag + 1 + count):
            method = Basic.Deliver("ctag", tag, False, "", "input")
            self.opened.deliver(method, pika.BasicProperties(), b"")

    def replacement(self, began_at: int = 0) -> Replacement:
        return Replacement(
            self.link_, self.amqp_, self.opened, "ctag", PREFETCH, began_at, self.ended.append
        )

    def told(self) -> list[str]:
        """What the broker was told of settled messages."""
        return [name for burst in self.link.transport.methods for name in burst]


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_it_counts_what_the_broker_takes_to_be_in_hand_of_this_consumer(setup: Setup) -> None:
    setup.deliver(4)
    setup.opened.ack(1)
    replacement = setup.replacement()
    setup.opened.ack(2)
    assert replacement.taken == 3, "it isn't told of the second yet"
    setup.deliver(1)
    assert replacement.taken == 4
    assert replacement.call_off()
    assert setup.replacement(setup.opened.last_tag).taken == 0, (
        "what the former consumer got doesn't count"
    )


def test_a_consumer_that_has_all_that_it_gets_is_cancelled_at_once(setup: Setup) -> None:
    setup.deliver(PREFETCH)
    replacement = setup.replacement()
    replacement.begin()
    assert setup.amqp.calls == [("basic_cancel", ("ctag",))]
    assert not replacement.call_off(), "it is too late for that"
    setup.opened.ack(1)
    assert (setup.ended, setup.told()) == ([], [])
    setup.amqp.answer(Basic.CancelOk("ctag"))
    assert (setup.ended, setup.told()) == ([True], ["Basic.Ack"])


def test_it_waits_a_little_for_what_the_consumer_has_yet_to_get(setup: Setup) -> None:
    setup.deliver(PREFETCH - 1)
    setup.replacement().begin()
    setup.link.run_timers()
    assert setup.amqp.calls == []
    setup.deliver(1)
    setup.link.run_timers()
    assert setup.amqp.calls == [("basic_cancel", ("ctag",))]


def test_a_consumer_that_does_not_get_so_many_stays(setup: Setup) -> None:
    setup.deliver(1)
    setup.replacement().begin()
    setup.opened.ack(1)
    looks = 0
    while setup.link.timers:
        looks += 1
        setup.link.run_timers()
    assert looks == 10
    assert (setup.ended, setup.told(), setup.amqp.calls) == ([False], ["Basic.Ack"], [])


def test_what_is_called_off_looks_no_longer(setup: Setup) -> None:
    setup.deliver(1)
    replacement = setup.replacement()
    replacement.begin()
    setup.opened.ack(1)
    assert replacement.call_off()
    assert setup.told() == ["Basic.Ack"]
    setup.deliver(PREFETCH)
    setup.link.run_timers()
    assert (setup.ended, setup.link.timers, setup.amqp.calls) == ([], [], [])


def test_nothing_is_asked_of_a_channel_that_is_gone(setup: Setup) -> None:
    setup.replacement().begin()
    setup.deliver(PREFETCH)
    setup.opened.closing()
    setup.link.run_timers()
    assert (setup.ended, setup.link.timers, setup.amqp.calls) == ([], [], [])
