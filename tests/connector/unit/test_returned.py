"""Replies that came back: sent again until they would have expired, in their order."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
from collections.abc import Callable

import pika
import pytest
from mq_connector.consumer.opened import Message
from mq_connector.consumer.outbox.returned import ReturnedReplies
from mq_connector.errors import ChannelError, MQError
from mq_connector.logs import Complaints
from pika.spec import Basic

EXPIRING = pika.BasicProperties(expiration="1000")
LASTING = pika.BasicProperties()
#: Seconds from a publish to its return, and to the answer behind it.
TRIP = 0.001


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
        #: Messages that wait, by the outbox's count.
        self.waiting = 0
        self.replies = ReturnedReplies(self, Complaints())

    # ---- the outbox

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        assert seconds >= 0
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), function))

    def send_again(self, message: Message) -> bool:
        if not self.connected:
            return False
        self.attempts.append((self.now, message.body))
        if message.routing_key in self.queues:
            self.arrived.append((self.now, message.routing_key, message.body))
        else:
            assert message.mandatory, "it would be lost"
            returned = functools.partial(
                self.bounce, message.routing_key, message.body, message.properties or LASTING
            )
            self.later(TRIP, returned)
        return True

    def when_answered(self, answered: Callable[[], None]) -> None:
        if self.connected:
            self.later(TRIP, answered)

    def declare(self, queue: str, refused: Callable[[MQError], object]) -> None:
        self.declared.append((self.now, queue))
        if self.declarable:
            self.later(TRIP, lambda: self.queues.add(queue))
        else:

            def refuse() -> None:
                refused(ChannelError(403, "ACCESS_REFUSED"))

            self.later(TRIP, refuse)

    def keep(self, message: Message) -> None:
        self.waiting += 1

    def let_go(self, message: Message) -> None:
        self.waiting -= 1

    # ---- what happens to it

    def bounce(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        self.replies.on_return(Basic.Return(312, "NO_ROUTE", "", queue), properties, body)

    def hold(self, queue: str, body: bytes, properties: pika.BasicProperties = EXPIRING) -> bool:
        """A worker publishes to a queue that is being waited for."""
        held = self.replies.hold(Message("", queue, body, properties, True))
        self.waiting += held
        return held

    def lose(self) -> None:
        """The channel goes: neither messages nor answers come back."""
        self.connected = False
        self._timers.clear()
        self.replies.on_lost()

    def connect(self) -> None:
        self.connected = True
        self.replies.on_channel()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, function = heapq.heappop(self._timers)
            function()
        self.now = until

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.arrived]

    @property
    def forgotten(self) -> bool:
        """Nothing is remembered of what has arrived, or was given up."""
        return not self.replies.queues and self.waiting == 0


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr("mq_connector.consumer.outbox.returned.time.monotonic", lambda: world.now)
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
    assert world.forgotten


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
    [line] = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert line.startswith(
        "reply queue 'q' doesn't exist: its client has gone, or may not make it (403"
    )
    assert line.endswith("; its replies are dropped")
    assert world.declared == [], "no queue is left behind for a client that has gone"
    assert world.forgotten


def test_a_queue_that_is_missing_again_and_again_is_not_told_of_each_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        world.bounce("q", b"reply", EXPIRING)
        world.run(2)
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 5
    assert world.forgotten


def test_only_the_first_of_many_is_sent_to_find_out_whether_the_queue_is_there(
    world: World,
) -> None:
    for number in range(50):
        world.bounce("q", b"%d" % number, EXPIRING)
    world.run(0.1)
    assert {body for _, body in world.attempts} == {b"0"}
    world.queues.add("q")
    world.run(0.1)
    assert world.bodies == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("appears", [0.0, 0.0025, 0.0035, 0.02])
@pytest.mark.parametrize("late", [0.0005, 0.002, 0.0035, 0.005, 0.012])
def test_what_is_still_coming_back_stays_before_what_was_published_later(
    world: World, appears: float, late: float
) -> None:
    """The second part was on its way when the first came back, and the third is held for that."""
    world.bounce("q", b"0", EXPIRING)
    world.hold("q", b"2")
    world.later(late, lambda: world.bounce("q", b"1", EXPIRING))
    world.later(late + appears + 0.0001, lambda: world.queues.add("q"))
    world.run(1)
    assert world.bodies == [b"0", b"1", b"2"]
    assert world.forgotten


def test_replies_to_one_queue_keep_their_order(world: World) -> None:
    for number in range(5):
        world.bounce("q", b"%d" % number, EXPIRING)
        world.run(0.001)
    world.run(0.02)
    world.queues.add("q")
    world.run(1)
    assert world.bodies == [b"%d" % number for number in range(5)]


def test_a_reply_that_is_held_goes_behind_those_that_wait(world: World) -> None:
    world.bounce("q", b"first", EXPIRING)
    world.queues.add("q")
    assert "q" in world.replies.queues
    assert world.hold("q", b"second")
    world.run(1)
    assert world.bodies == [b"first", b"second"]
    assert not world.hold("q", b"third"), "there is nothing to stand behind"


def test_a_queue_that_goes_while_its_replies_are_sent_costs_no_order(world: World) -> None:
    for number in range(4):
        world.bounce("q", b"%d" % number, EXPIRING)
    world.queues.add("q")
    while world.bodies != [b"0"]:
        world.run(0.0001)
    world.queues.remove("q")
    world.hold("q", b"4")
    world.run(0.1)
    world.queues.add("q")
    world.run(1)
    assert world.bodies == [b"%d" % number for number in range(5)]
    assert world.forgotten


def test_a_queue_that_goes_in_the_middle_has_those_before_it(world: World) -> None:
    """The broker returns messages in order: what stood before a returned one has arrived."""
    for number in range(4):
        world.bounce("q", b"%d" % number, EXPIRING)
    world.queues.add("q")
    send = world.send_again

    def two_fit(message: Message) -> bool:
        if message.body == b"2":
            world.queues.discard("q")
        return send(message)

    world.send_again = two_fit  # type: ignore[method-assign]
    world.run(0.02)
    assert world.bodies == [b"0", b"1"]
    world.send_again = send  # type: ignore[method-assign]
    world.queues.add("q")
    world.run(1)
    assert world.bodies == [b"0", b"1", b"2", b"3"], "each of them once"
    assert world.forgotten


def test_queues_do_not_wait_for_each_other(world: World) -> None:
    world.queues.add("there")
    world.bounce("missing", b"1", EXPIRING)
    world.bounce("there", b"2", EXPIRING)
    world.run(0.01)
    assert world.bodies == [b"2"]


def test_a_queue_is_declared_for_a_reply_that_never_expires(world: World) -> None:
    world.bounce("q", b"reply", LASTING)
    world.run(0.15)
    assert world.declared == [], "its client may still do so"
    world.run(1)
    assert world.bodies == [b"reply"]
    assert [queue for _, queue in world.declared] == ["q"]


def test_a_reply_that_never_expires_is_given_up_after_half_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.declarable = False  # the broker refuses it
    world.bounce("q", b"reply", LASTING)
    world.run(60)
    assert 1029 < max(when for when, _ in world.attempts) < 1031
    assert len(world.declared) == 1, "what is refused once is refused again"
    lines = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert lines == [
        "reply queue 'q' doesn't exist: its client hasn't made it, and we can't: 403 ACCESS_REFUSED; "
        + consequence
        for consequence in ("trying on", "its replies are dropped")
    ]
    assert world.forgotten


def test_what_was_sent_again_is_waited_for_until_the_broker_has_answered_behind_it(
    world: World,
) -> None:
    world.bounce("q", b"reply", EXPIRING)
    world.queues.add("q")
    while not world.arrived:
        world.run(0.0001)
    assert world.replies.queues, "it may come back once more"
    world.run(0.01)
    assert world.forgotten


def test_what_is_published_meanwhile_follows_without_a_pause(world: World) -> None:
    world.bounce("q", b"first", EXPIRING)
    world.queues.add("q")
    while not world.arrived:
        world.run(0.0001)
    world.hold("q", b"second")
    world.run(2 * TRIP)
    assert world.bodies == [b"first", b"second"]


def test_a_queue_that_goes_again_is_not_asked_for_without_a_pause(world: World) -> None:
    world.bounce("q", b"first", EXPIRING)
    world.queues.add("q")
    while not world.arrived:
        world.run(0.0001)
    world.hold("q", b"second")
    world.queues.remove("q")
    before = len(world.attempts)
    world.run(0.9)
    assert len(world.attempts) - before < 40


def test_nothing_is_remembered_of_replies_that_have_arrived(world: World) -> None:
    world.queues.add("q")
    for number in range(100):
        world.bounce("q", b"%d" % number, EXPIRING)
    assert world.waiting == 100
    world.run(5)
    assert len(world.arrived) == 100
    assert world.forgotten


# ---- failures


def test_without_a_channel_all_is_kept_until_there_is_one(world: World) -> None:
    world.queues.add("q")
    world.bounce("q", b"returned", EXPIRING)
    world.hold("q", b"held")
    world.bounce("r", b"returned as well", EXPIRING)
    world.lose()
    world.hold("r", b"held as well")
    world.run(0.5)
    assert world.attempts == []
    world.queues.add("r")
    world.connect()
    world.run(1)
    assert sorted(world.bodies) == [b"held", b"held as well", b"returned", b"returned as well"]
    assert world.forgotten


def test_what_was_under_way_when_the_channel_went_is_sent_again(world: World) -> None:
    world.bounce("q", b"reply", EXPIRING)
    while not world.attempts:
        world.run(0.0001)
    world.lose()
    world.queues.add("q")
    world.connect()
    world.run(1)
    assert world.bodies == [b"reply"]
    assert world.forgotten


def test_what_came_back_before_the_connection_went_is_sent_again(world: World) -> None:
    """The return is here, the answer behind it never comes."""
    world.bounce("q", b"reply", EXPIRING)
    while not world.attempts:
        world.run(0.0001)
    world._timers.clear()
    world.bounce("q", b"reply", EXPIRING)
    world.lose()
    world.queues.add("q")
    world.connect()
    world.run(1)
    assert world.bodies == [b"reply"]
    assert world.forgotten


def test_the_order_outlasts_the_loss_of_a_channel(world: World) -> None:
    for number in range(3):
        world.bounce("q", b"%d" % number, EXPIRING)
    world.queues.add("q")
    while world.bodies != [b"0"]:
        world.run(0.0001)
    world.run(TRIP)  # the others are under way
    world.hold("q", b"3")
    world.arrived.clear()
    world.lose()
    world.connect()
    world.run(1)
    assert world.bodies == [b"1", b"2", b"3"]
    assert world.forgotten


@pytest.mark.parametrize("known", [True, False])
def test_what_comes_back_while_there_is_no_channel_is_sent_on_the_next(
    world: World, known: bool
) -> None:
    """A reply that was published with a confirm comes back by another channel than the consumer's."""
    if known:
        world.bounce("q", b"0", EXPIRING)
    world.lose()
    world.replies.came_back(Message("", "q", b"1", EXPIRING, True))
    world.queues.add("q")
    world.connect()
    world.run(1)
    assert world.bodies == [b"0", b"1"][not known :]
    assert world.forgotten


@pytest.mark.parametrize("expiration", ["soon", "", "²"])
def test_an_expiration_that_is_no_number_does_not_end_the_loop(
    world: World, expiration: str
) -> None:
    world.bounce("q", b"reply", pika.BasicProperties(expiration=expiration))
    world.queues.add("q")
    world.run(1)
    assert len(world.arrived) == 1
