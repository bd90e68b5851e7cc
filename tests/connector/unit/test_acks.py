"""The book of delivery tags, against a model of what the broker thinks of them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from mq_connector.consumer.opened.acks import Acks


class Broker:
    """Settles deliveries as RabbitMQ does: a tag that isn't outstanding costs the channel."""

    def __init__(self) -> None:
        self.outstanding: list[int] = []
        self.acked: list[int] = []
        self.rejected: list[int] = []

    def ack(self, tag: int, multiple: bool) -> None:
        assert tag in self.outstanding, f"unknown delivery tag {tag}"
        settled = [each for each in self.outstanding if each <= tag] if multiple else [tag]
        self.outstanding = [each for each in self.outstanding if each not in settled]
        self.acked += settled

    def reject(self, tag: int) -> None:
        assert tag in self.outstanding, f"unknown delivery tag {tag}"
        self.outstanding.remove(tag)
        self.rejected.append(tag)


class AcksAgainstABroker(RuleBasedStateMachine):
    """Any order of deliveries, settlings and bursts leaves both sides with the same book."""

    def __init__(self) -> None:
        super().__init__()
        self.acks = Acks()
        self.broker = Broker()
        self.last = 0
        self.acked: set[int] = set()
        self.rejected: set[int] = set()

    def unsettled(self, up_to: int = 0) -> list[int]:
        settled = self.acked | self.rejected
        return [
            tag
            for tag in range(1, (up_to or self.last) + 1)
            if tag not in settled and tag <= self.last
        ]

    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            self.last += 1
            self.broker.outstanding.append(self.last)
            self.acks.highest = self.last

    @rule(tag=st.integers(0, 30))
    def ack_one(self, tag: int) -> None:
        fresh = tag in self.unsettled()
        assert self.acks.ack(tag) == fresh
        if fresh:
            self.acked.add(tag)

    @rule(tag=st.integers(0, 30))
    def ack_many(self, tag: int) -> None:
        tags = self.unsettled(tag)
        assert self.acks.ack(tag, multiple=True) == bool(tags)
        self.acked.update(tags)

    @rule(tag=st.integers(0, 30))
    def reject_one(self, tag: int) -> None:
        fresh = tag in self.unsettled()
        assert self.acks.note_rejection(tag) == fresh
        if fresh:
            self.rejected.add(tag)
            self.broker.reject(tag)

    @rule(tag=st.integers(0, 30))
    def reject_many(self, tag: int) -> None:
        tags = self.acks.unsettled(tag)
        assert tags == self.unsettled(tag)
        for each in tags:
            assert self.acks.note_rejection(each)
            self.rejected.add(each)
            self.broker.reject(each)

    @rule()
    def send_a_burst(self) -> None:
        news = self.acked - set(self.broker.acked)
        frames = self.acks.take()
        for tag, multiple in frames:
            self.broker.ack(tag, multiple)
        assert self.acks.pending == 0
        assert sorted(self.broker.acked) == sorted(self.acked), "each acked tag once, and no other"
        gap = min(self.unsettled(), default=self.last + 1)
        behind = [tag for tag in news if tag > gap]
        assert len(frames) == len(behind) + any(tag < gap for tag in news), (
            "more frames than needed"
        )

    @invariant()
    def both_sides_agree(self) -> None:
        assert self.acks.outstanding == len(self.unsettled())
        assert self.acks.pending == len(self.acked) - len(self.broker.acked)
        unsettled = set(self.unsettled())
        for tag in range(self.last + 2):
            assert self.acks.is_settled(tag) == (tag not in unsettled)


TestAcksAgainstABroker = pytest.mark.slow(AcksAgainstABroker.TestCase)
TestAcksAgainstABroker.settings = settings(max_examples=200, stateful_step_count=40)


def delivered(count: int) -> Acks:
    acks = Acks()
    for tag in range(1, count + 1):
        acks.highest = tag
    return acks


def test_a_run_from_the_lowest_tag_becomes_one_frame() -> None:
    acks = delivered(100)
    for tag in range(1, 101):
        acks.ack(tag)
    assert acks.take() == [(100, True)]


def test_what_is_settled_behind_a_gap_is_acknowledged_one_by_one() -> None:
    acks = delivered(5)
    for tag in (2, 5, 4):
        acks.ack(tag)
    assert sorted(acks.take()) == [(2, False), (4, False), (5, False)]
    acks.ack(1)
    assert acks.take() == [(1, True)], "2 was told already, so 1 must stand on top"


def test_a_rejected_tag_is_never_on_top_of_a_multiple_ack() -> None:
    acks = delivered(3)
    acks.ack(1)
    acks.note_rejection(2)
    acks.note_rejection(3)
    assert acks.take() == [(1, True)]
    assert acks.outstanding == 0


def test_rejections_alone_need_no_ack() -> None:
    acks = delivered(2)
    acks.note_rejection(1)
    acks.note_rejection(2)
    assert acks.take() == []


def test_tag_zero_means_all_that_are_outstanding() -> None:
    acks = delivered(3)
    assert acks.ack(0, multiple=True)
    assert acks.take() == [(3, True)]
    assert not acks.ack(0, multiple=True)


def remembered(acks: Acks) -> int:
    """Tags that the book holds in any way."""
    return sum(len(each) for each in vars(acks).values() if isinstance(each, (dict, list, set)))


@pytest.mark.parametrize("tells", ["acks", "rejections"])
def test_what_is_settled_behind_a_delivery_that_stays_in_hand_is_forgotten_once_told(
    tells: str,
) -> None:
    """A handler that hangs for half an hour mustn't make each burst of the others dearer."""
    acks = Acks()
    acks.highest = 1
    for tag in range(2, 100_001):
        acks.highest = tag
        if tells == "acks":
            acks.ack(tag)
        else:
            acks.note_rejection(tag)
        if tag % 50 == 0:
            acks.take()
    assert remembered(acks) == 1 == acks.outstanding
    assert acks.ack(1)
    assert acks.take() == [(1, True)]


def test_a_handler_that_only_rejects_leaves_nothing_behind_though_nothing_is_taken() -> None:
    acks = Acks()
    for tag in range(1, 100_001):
        acks.highest = tag
        acks.note_rejection(tag)
    assert acks.pending == acks.outstanding == 0 == remembered(acks)


def test_a_hundred_thousand_settled_deliveries_leave_nothing_behind() -> None:
    acks = Acks()
    for tag in range(1, 100_001):
        acks.highest = tag
        acks.ack(tag)
        if tag % 50 == 0:
            acks.take()
    assert remembered(acks) == 0 and acks.outstanding == 0


# ---- failures: what the broker would close the channel for


def test_settling_twice_does_nothing_the_second_time() -> None:
    acks = delivered(1)
    assert acks.ack(1)
    assert not acks.ack(1)
    assert not acks.note_rejection(1)
    assert acks.take() == [(1, True)]
    assert not acks.ack(1)
    assert acks.take() == []


def test_a_tag_that_was_never_delivered_is_not_acknowledged() -> None:
    acks = delivered(2)
    assert not acks.ack(3)
    assert not acks.ack(0)
    assert not acks.note_rejection(3)
    assert acks.take() == []


def test_acknowledging_beyond_the_last_tag_stops_at_the_last() -> None:
    acks = delivered(2)
    assert acks.ack(99, multiple=True)
    assert acks.take() == [(2, True)]
    acks.highest = 3
    assert acks.outstanding == 1


def test_what_the_broker_has_taken_back_is_not_outstanding_but_may_be_settled() -> None:
    acks = Acks()
    acks.highest = 3
    acks.note_late(1)
    acks.note_late(3)
    acks.note_late(4)  # which has never come
    assert acks.outstanding == 1
    assert not acks.is_settled(1)
    assert acks.ack(2)
    assert acks.outstanding == 0
    assert acks.take() == [(2, False)]
    assert acks.ack(1)
    acks.note_late(1)
    assert acks.note_rejection(3)
    assert acks.outstanding == 0
    acks.highest = 4
    assert acks.outstanding == 1
