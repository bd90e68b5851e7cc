"""Publishes that wait: held in order, within bounds that count where the publisher is, none forgotten."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import pika
import pytest
from mq_connector.connection.wire.frames import PropertiesEncoder
from mq_connector.consumer.opened import Message, OpenedChannel, Sizes
from mq_connector.consumer.outbox import Outbox, Room
from mq_connector.consumer.outbox import outbox as outbox_module
from mq_connector.errors import NotConnected
from mq_connector.publisher import Publisher
from pika.spec import Basic
from waiting import eventually

from . import wire
from .fakes import FakeLink


def test_a_message_too_many_is_refused_after_a_while() -> None:
    room = Room(most=2, most_bytes=100)
    room.take(1, 0.0)
    room.take(1, 0.0)
    with pytest.raises(NotConnected, match="2 messages already wait"):
        room.take(1, 0.01)


def test_bytes_count_as_messages_do() -> None:
    room = Room(most=10, most_bytes=100)
    room.take(100, 0.0)
    with pytest.raises(NotConnected):
        room.take(1, 0.01)


def test_a_publisher_waits_until_one_is_gone() -> None:
    room = Room(most=1, most_bytes=100)
    room.take(1, 0.0)
    taken = threading.Event()

    def publish() -> None:
        room.take(1, 10.0)
        taken.set()

    thread = threading.Thread(target=publish)
    thread.start()
    assert not taken.wait(0.05)
    room.give(1)
    eventually(taken.is_set)
    thread.join()


def test_what_has_come_back_counts_though_there_is_no_room() -> None:
    room = Room(most=1, most_bytes=100)
    room.add(1)
    room.add(1)
    room.give(1)
    with pytest.raises(NotConnected):
        room.take(1, 0.01)


def test_what_has_gone_makes_room_for_as_many_bytes() -> None:
    room = Room(most=10, most_bytes=1000)
    for _ in range(3):
        room.take(500, 0.0)
        room.take(500, 0.0)
        with pytest.raises(NotConnected, match="2 messages already wait"):
            room.take(1, 0.0)
        room.give(500)
        room.give(500)


def test_many_that_wait_get_room_one_after_the_other() -> None:
    room = Room(most=2, most_bytes=100)
    taken = threading.Semaphore(0)

    def publish() -> None:
        room.take(1, 10.0)
        taken.release()

    threads = [threading.Thread(target=publish) for _ in range(10)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert taken.acquire(timeout=60)
        room.give(1)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


# ---- the outbox itself


class World:
    """An outbox whose channel comes and goes."""

    def __init__(self) -> None:
        self.link = FakeLink()
        self.transport = self.link.transport
        self._numbers = itertools.count(1)
        link: Any = self.link
        self.outbox = Outbox(link)
        self.barriers: list[Callable[[], None]] = []
        #: The channel by which the message in hand has come.
        self.opened = self._open()

    def _open(self) -> OpenedChannel:
        link: Any = self.link
        amqp: Any = pika.frame.Method(next(self._numbers), None)  # has a channel_number
        return OpenedChannel(link, amqp, SimpleQueue(), Sizes(1))

    def connect(self, takes: int = 1000) -> list[bytes]:
        """There is another channel; returns what leaves on it at once.

        :param takes: messages after which it closes
        """
        before = len(self.transport.bodies)
        self.opened = self._open()

        def count() -> None:
            if len(self.transport.bodies) - before >= takes:
                self.opened.is_open = False

        self.transport.on_send = count
        self.outbox.on_channel(self.opened, self.barriers.append)
        self.transport.on_send = lambda: None
        return self.transport.bodies[before:]

    def lose(self) -> None:
        self.opened.end()
        self.outbox.on_lost()
        self.barriers.clear()

    def publish(self, body: bytes, queue: str = "reply") -> None:
        self.outbox.publish(self.opened, Message("", queue, body, None, True))

    def bounce(self, body: bytes, queue: str = "reply") -> None:
        method = Basic.Return(312, "NO_ROUTE", "", queue)
        self.outbox.on_return(None, method, pika.BasicProperties(expiration="60000"), body)

    def answer(self) -> None:
        """The broker has dealt with all that was sent."""
        barriers = list(self.barriers)
        self.barriers.clear()
        for answered in barriers:
            answered()

    def turn(self) -> None:
        """All timers go off, and the broker answers."""
        self.link.run_timers()
        self.answer()


@pytest.fixture
def world() -> World:
    return World()


def test_with_a_channel_a_message_leaves_at_once(world: World) -> None:
    world.connect()
    world.publish(b"1")
    assert world.transport.bodies == [b"1"]
    assert world.link.calls == []


def test_what_was_held_leaves_in_its_order_when_there_is_a_channel(world: World) -> None:
    world.lose()
    for number in range(3):
        world.publish(b"%d" % number)
    assert world.transport.bodies == []
    assert world.connect() == [b"0", b"1", b"2"]
    world.publish(b"3")
    assert world.transport.bodies == [b"0", b"1", b"2", b"3"]
    world.lose()
    assert world.connect() == [], "sent a second time"


def test_what_the_channel_no_longer_takes_is_held_for_the_next(world: World) -> None:
    world.lose()
    for number in range(5):
        world.publish(b"%d" % number)
    assert world.connect(takes=2) == [b"0", b"1"]
    world.lose()
    assert world.connect() == [b"2", b"3", b"4"]


@pytest.mark.parametrize("has_left", [False, True])
def test_what_the_next_connection_can_t_send_keeps_nothing_from_leaving(
    world: World, has_left: bool
) -> None:
    """As after a rotation, where our user is another, and smaller frames: it would cost each connection."""
    world.connect()
    mine = pika.BasicProperties(user_id="one", expiration="60000")
    if has_left:
        world.outbox.publish(world.opened, Message("", "reply", b"mine", mine, True))
        method = Basic.Return(312, "NO_ROUTE", "", "reply")
        world.outbox.on_return(None, method, mine, b"mine")
    world.lose()
    if not has_left:
        world.outbox.publish(world.opened, Message("", "reply", b"mine", mine, True))
    world.publish(b"next")
    world.link.run_calls()
    world.link.encoder = PropertiesEncoder(wire.FRAME_MAX, "two")
    world.connect()
    for _ in range(3):
        world.link.run_calls()
        world.turn()
    assert world.transport.bodies[has_left:] == [b"next"]
    assert not world.outbox.is_busy
    assert world.outbox._room._count == 0


def test_a_message_from_a_channel_that_has_a_successor_leaves_on_that(world: World) -> None:
    world.connect()
    former = world.opened
    world.lose()
    world.connect()
    world.outbox.publish(former, Message("", "reply", b"1"))
    world.link.run_calls()
    [[method, *_]] = world.transport.bursts
    assert method.channel_number == world.opened.number != former.number


def test_more_than_may_be_held_is_refused_and_what_is_held_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_ROOM_WITHIN", 0.01)
    world.outbox._room = Room(most=3)
    world.lose()
    for number in range(3):
        world.publish(b"%d" % number)
    with pytest.raises(NotConnected, match="3 messages already wait"):
        world.publish(b"one too many")
    assert world.connect() == [b"0", b"1", b"2"]
    world.lose()
    for number in range(3):
        world.publish(b"%d" % number)  # there is room again
    assert len(world.connect()) == 3


def test_who_publishes_too_much_waits_until_there_is_a_channel(world: World) -> None:
    world.outbox._room = Room(most=1)
    world.lose()
    world.publish(b"0")
    thread = threading.Thread(target=world.publish, args=(b"1",))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    world.connect()
    thread.join(60)
    assert not thread.is_alive()
    world.link.run_calls()
    assert world.transport.bodies == [b"0", b"1"]


def test_what_waits_keeps_the_properties_that_it_was_published_with(world: World) -> None:
    properties = pika.BasicProperties(message_id="1")
    world.lose()
    world.outbox.publish(world.opened, Message("", "reply", b"", properties))
    properties.message_id = "2"
    world.outbox.publish(world.opened, Message("", "reply", b"", properties))
    world.connect()
    headers = [burst[1].properties.message_id for burst in world.transport.bursts]
    assert headers == ["1", "2"]


def test_what_waits_keeps_its_headers_whatever_becomes_of_the_caller_s_tables(
    world: World,
) -> None:
    headers: dict[str, Any] = {"n": 1, "inner": {"list": [1]}}
    world.lose()
    properties = pika.BasicProperties(headers=headers)
    world.outbox.publish(world.opened, Message("", "reply", b"", properties))
    headers["n"] = object()  # what nobody can encode
    headers["inner"]["list"].append(object())
    world.connect()
    [sent] = [burst[1].properties.headers for burst in world.transport.bursts]
    assert sent == {"n": 1, "inner": {"list": [1]}}


def test_what_can_t_be_encoded_is_the_caller_s_to_hear_of_also_where_it_would_wait(
    world: World,
) -> None:
    world.lose()
    with pytest.raises(AssertionError):
        world.outbox.publish(
            world.opened,
            Message("", "reply", b"", pika.BasicProperties(expiration=1000)),  # type: ignore[arg-type]
        )
    assert world.connect() == []


def test_on_the_loop_nobody_waits_for_room_that_it_alone_can_make(world: World) -> None:
    world.lose()
    world.publish(b"1")
    world.transport.room = lambda: pytest.fail("waited on the loop")
    assert world.connect() == [b"1"]


# ---- messages that come back


def test_what_comes_back_is_sent_again_until_its_queue_is_there(world: World) -> None:
    world.connect()
    world.publish(b"1")
    world.bounce(b"1")
    assert world.outbox.is_busy
    world.answer()
    world.turn()
    assert world.transport.bodies == [b"1", b"1"]
    assert not world.outbox.is_busy
    assert world.outbox._room._count == 0


def test_what_is_published_to_a_missing_queue_stands_behind_what_came_back(world: World) -> None:
    world.connect()
    world.bounce(b"0")
    world.publish(b"1")
    world.publish(b"elsewhere", "other")
    world.link.run_calls()
    assert world.transport.bodies == [b"elsewhere"]
    world.answer()
    world.turn()
    world.turn()
    assert world.transport.bodies == [b"elsewhere", b"0", b"1"]
    assert world.outbox._room._count == 0


def test_nothing_overtakes_what_has_yet_to_have_its_turn_on_the_loop(world: World) -> None:
    """The queue is there and forgotten before the loop comes to what was published meanwhile."""
    world.connect()
    world.bounce(b"0")
    world.answer()
    world.publish(b"1")
    world.turn()
    assert not world.outbox.is_busy
    world.publish(b"2")
    world.link.run_calls()
    assert world.transport.bodies == [b"0", b"1", b"2"]
    world.publish(b"3")
    assert world.transport.bodies[3:] == [b"3"], "at once again"


def test_a_consumer_made_anew_on_the_same_channel_leaves_alone_what_is_under_way(
    world: World,
) -> None:
    """As after the broker has cancelled it: nothing was lost, and nothing may be sent twice."""
    world.connect()
    world.bounce(b"0")
    world.bounce(b"1")
    world.answer()
    world.link.run_timers()  # the first is under way
    world.outbox.on_channel(world.opened, world.barriers.append)
    world.link.run_timers()
    assert world.transport.bodies == [b"0"]
    world.answer()
    world.turn()
    assert world.transport.bodies == [b"0", b"1"]
    assert world.outbox._room._count == 0


def test_a_message_to_an_exchange_without_queues_is_dropped_with_a_warning_now_and_then(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.connect()
    method = Basic.Return(312, "NO_ROUTE", "events", "key")
    for _ in range(3):
        world.outbox.on_return(None, method, pika.BasicProperties(), b"event")
    assert not world.outbox.is_busy
    assert caplog.text.count("nothing is bound to exchange 'events'") == 1


def test_threads_that_publish_to_an_exchange_at_once_share_one_publisher(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody knows of would stay on the connection, and never let it close."""
    made: list[Publisher] = []

    class SlowPublisher(Publisher):
        def __init__(self, *arguments: Any) -> None:
            time.sleep(0.02)
            super().__init__(*arguments)
            made.append(self)

        def publish(self, *_: Any, **__: Any) -> Future[None]:
            return Future()

    monkeypatch.setattr(outbox_module, "Publisher", SlowPublisher)
    world.connect()
    message = Message("events", "key", b"")
    threads = [
        threading.Thread(target=world.outbox.publish, args=(world.opened, message))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 1
