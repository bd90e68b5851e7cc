"""Replies that came back: sent again until they would have expired, in their order."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
from collections.abc import Callable

import pika
import pytest
from mq_connector.consumer import returned as returned_module
from mq_connector.consumer.returned import Message, ReturnedReplies
from pika.spec import Basic

EXPIRING = pika.BasicProperties(expiration="1000")
LASTING = pika.BasicProperties()


class World:
    """A clock, timers, and a broker whose queues appear when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.queues: set[str] = set()
        self.arrived: list[tuple[float, str, bytes]] = []
        self.attempts: list[tuple[float, bytes]] = []
        self.declared: list[tuple[float, str]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.connected = True
        self.declarable = True
        self.replies = ReturnedReplies(self)

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        assert seconds >= 0
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), function))

    def resend(self, queue: str, messages: list[Message], answered: Callable[[], None]) -> bool:
        if not self.connected:
            return False
        for each in messages:
            self.attempts.append((self.now, each.body))
            if queue in self.queues:
                self.arrived.append((self.now, queue, each.body))
            else:
                returning = functools.partial(self.bounce, queue, each.body, each.properties)
                self.later(0.001, returning)
        self.later(0.001, answered)
        return True

    def declare_reply_queue(self, queue: str) -> None:
        self.declared.append((self.now, queue))
        if self.declarable:
            self.later(0.001, lambda: self.queues.add(queue))

    def bounce(
        self, queue: str, body: bytes, properties: pika.BasicProperties, exchange: str = ""
    ) -> None:
        self.replies.on_return(Basic.Return(312, "NO_ROUTE", exchange, queue), properties, body)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, function = heapq.heappop(self._timers)
            function()
        self.now = until


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(returned_module.time, "monotonic", lambda: world.now)
    return world


def test_a_reply_arrives_as_soon_as_its_queue_is_there(world: World) -> None:
    world.bounce("q", b"reply", EXPIRING)
    world.run(0.02)
    assert world.arrived == []
    world.queues.add("q")
    world.run(1)
    [(when, queue, body)] = world.arrived
    assert (queue, body) == ("q", b"reply")
    assert when - 1000 < 0.1
    assert world.declared == []


def test_the_first_attempts_are_quick_and_the_later_ones_cheap(world: World) -> None:
    world.bounce("q", b"reply", EXPIRING)
    world.run(0.95)
    times = [when for when, _ in world.attempts]
    gaps = [later - earlier for earlier, later in itertools.pairwise([1000.0, *times])]
    assert gaps[0] <= 0.005
    assert max(gaps) <= 0.06
    assert len(times) < 40


def test_a_reply_is_given_up_when_it_would_have_expired(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.bounce("q", b"reply", EXPIRING)
    with caplog.at_level(logging.INFO):
        world.run(5)
    assert max(when for when, _ in world.attempts) <= 1001.06
    assert "queue 'q' doesn't exist: its client has gone" in caplog.text
    assert world.declared == [], "no queue is left behind for a client that has gone"
    assert world.replies._count == 0
    assert not world.replies.waiting


@pytest.mark.parametrize("appears", [0.0, 0.0025, 0.0035, 0.02])
def test_what_is_still_coming_back_stays_before_what_was_published_later(
    world: World, appears: float
) -> None:
    """The second part was on its way when the first came back, and the third is held for that."""
    world.bounce("q", b"0", EXPIRING)
    world.replies.hold("q", b"2", EXPIRING)
    world.later(0.0025, lambda: world.bounce("q", b"1", EXPIRING))  # after the first attempt
    world.later(appears + 0.0026, lambda: world.queues.add("q"))
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"0", b"1", b"2"]
    assert not world.replies.waiting and world.replies._count == 0


def test_replies_to_one_queue_keep_their_order(world: World) -> None:
    for number in range(5):
        world.bounce("q", b"%d" % number, EXPIRING)
        world.run(0.001)
    world.run(0.02)
    world.queues.add("q")
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"%d" % number for number in range(5)]


def test_a_reply_that_is_held_goes_behind_those_that_wait(world: World) -> None:
    world.bounce("q", b"first", EXPIRING)
    world.queues.add("q")
    assert "q" in world.replies.waiting
    world.replies.hold("q", b"second", EXPIRING)
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"first", b"second"]
    world.replies.hold("q", b"third", EXPIRING)
    assert world.arrived[-1][2] == b"third"


def test_queues_do_not_wait_for_each_other(world: World) -> None:
    world.queues.add("there")
    world.bounce("missing", b"1", EXPIRING)
    world.bounce("there", b"2", EXPIRING)
    world.run(0.01)
    assert [body for _, _, body in world.arrived] == [b"2"]


def test_a_queue_is_declared_for_a_reply_that_never_expires(world: World) -> None:
    world.bounce("q", b"reply", LASTING)
    world.run(0.15)
    assert world.declared == [], "its client may still do so"
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"reply"]
    assert {queue for _, queue in world.declared} == {"q"}


def test_a_reply_that_never_expires_is_given_up_after_half_a_minute(world: World) -> None:
    world.declarable = False  # the broker refuses it
    world.bounce("q", b"reply", LASTING)
    world.run(60)
    assert 1029 < max(when for when, _ in world.attempts) < 1031
    assert not world.replies.waiting


def test_what_was_sent_again_is_waited_for_until_the_broker_has_answered_behind_it(
    world: World,
) -> None:
    world.bounce("q", b"reply", EXPIRING)
    world.queues.add("q")
    world.run(0.0025)
    assert world.arrived
    assert world.replies.waiting, "it may come back once more"
    world.run(0.01)
    assert not world.replies.waiting


def test_what_is_published_meanwhile_follows_without_a_pause(world: World) -> None:
    world.bounce("q", b"first", EXPIRING)
    world.queues.add("q")
    world.run(0.0025)
    world.replies.hold("q", b"second", EXPIRING)
    world.run(0.002)
    assert [body for _, _, body in world.arrived] == [b"first", b"second"]


def test_a_queue_that_goes_again_is_not_asked_for_without_a_pause(world: World) -> None:
    world.bounce("q", b"first", EXPIRING)
    world.queues.add("q")
    world.run(0.0025)
    world.replies.hold("q", b"second", EXPIRING)
    world.queues.remove("q")
    before = len(world.attempts)
    world.run(0.9)
    assert len(world.attempts) - before < 40


def test_nothing_is_remembered_of_replies_that_have_arrived(world: World) -> None:
    world.queues.add("q")
    for number in range(100):
        world.bounce("q", b"%d" % number, EXPIRING)
    world.run(5)
    assert len(world.arrived) == 100
    assert not world.replies.waiting
    assert world.replies._count == 0


# ---- failures


def test_a_message_to_an_exchange_without_queues_is_dropped_with_a_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.bounce("key", b"event", EXPIRING, exchange="events")
    world.run(5)
    assert world.attempts == []
    assert "nothing is bound to exchange 'events'" in caplog.text


def test_too_many_replies_are_dropped_with_a_warning(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returned_module, "_MOST", 3)
    for number in range(4):
        world.bounce("q", b"%d" % number, EXPIRING)
    assert "too many messages wait" in caplog.text
    world.queues.add("q")
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"0", b"1", b"2"]


def test_few_large_replies_are_too_many_as_well_until_they_have_arrived(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returned_module, "_MOST_BYTES", 1000)
    for number in range(3):
        world.bounce("q", b"%d" % number * 500, EXPIRING)
    assert caplog.text.count("too many messages wait") == 1
    world.queues.add("q")
    world.run(1)
    assert [body[:1] for _, _, body in world.arrived] == [b"0", b"1"]
    world.queues.discard("q")
    world.bounce("q", b"3" * 500, EXPIRING)
    world.queues.add("q")
    world.run(1)
    assert [body[:1] for _, _, body in world.arrived] == [b"0", b"1", b"3"]


def test_without_a_channel_all_is_kept_until_there_is_one(world: World) -> None:
    world.connected = False
    world.queues.add("q")
    world.bounce("q", b"returned", EXPIRING)
    world.replies.hold("q", b"held", EXPIRING)
    world.replies.hold("r", b"held as well", EXPIRING)
    world.run(0.5)
    assert world.attempts == []
    world.connected = True
    world.queues.add("r")
    world.run(1)
    assert sorted(body for _, _, body in world.arrived) == [b"held", b"held as well", b"returned"]


def test_what_was_under_way_when_the_channel_went_is_sent_again(world: World) -> None:
    world.bounce("q", b"reply", EXPIRING)
    world.run(0.0025)
    assert len(world.attempts) == 1
    world._timers.clear()  # neither the message nor the answer come back
    world.replies.on_lost()
    world.queues.add("q")
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"reply"]
    assert not world.replies.waiting


def test_what_came_back_before_the_connection_went_is_sent_again(world: World) -> None:
    """The return is here, the answer behind it never comes."""
    world.bounce("q", b"reply", EXPIRING)
    world.run(0.0025)
    [(body, properties)] = [
        (each.body, each.properties) for each in world.replies.waiting["q"].sent
    ]
    world._timers.clear()
    world.bounce("q", body, properties)
    world.replies.on_lost()
    world.queues.add("q")
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"reply"]
    assert not world.replies.waiting


def test_a_new_loop_goes_on_with_what_the_old_one_had_timers_for(world: World) -> None:
    world.bounce("q", b"returned", EXPIRING)
    world.replies.hold("q", b"held", EXPIRING)
    world._timers.clear()
    world.replies.on_restart()
    world.queues.add("q")
    world.run(1)
    assert [body for _, _, body in world.arrived] == [b"returned", b"held"]
    assert not world.replies.waiting and world.replies._count == 0


@pytest.mark.parametrize("expiration", ["soon", "", "²"])
def test_an_expiration_that_is_no_number_does_not_end_the_loop(
    world: World, expiration: str
) -> None:
    world.bounce("q", b"reply", pika.BasicProperties(expiration=expiration))
    world.queues.add("q")
    world.run(1)
    assert len(world.arrived) == 1
