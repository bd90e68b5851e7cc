"""Messages to a queue that isn't there yet: sent again in their order, until they have expired."""

from __future__ import annotations

from collections.abc import Callable

import pika
from mq_connector.consumer.opened import Message
from mq_connector.consumer.returned import ReturnedReplies
from pika.spec import Basic


class World:
    """A broker without the queue, or with it, and a loop that turns when the test says so."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.declared: list[str] = []
        self.kept = 0
        self.is_there = False
        self.has_channel = True
        self.timers: list[Callable[[], None]] = []
        self.barriers: list[Callable[[], None]] = []
        self.returned = ReturnedReplies(self)

    def send_again(self, message: Message) -> bool:
        if self.has_channel:
            self.sent.append(message.body)
            if not self.is_there:
                self.come_back(message.body, message.properties)
        return self.has_channel

    def come_back(self, body: bytes, properties: pika.BasicProperties | None = None) -> None:
        method = Basic.Return(312, "NO_ROUTE", "", "gone")
        self.returned.on_return(
            method, properties or pika.BasicProperties(expiration="60000"), body
        )

    def when_answered(self, answered: Callable[[], None]) -> None:
        self.barriers.append(answered)

    def declare(self, queue: str) -> None:
        self.declared.append(queue)

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        self.timers.append(function)

    def keep(self, message: Message) -> None:
        self.kept += 1

    def let_go(self, message: Message) -> None:
        self.kept -= 1

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            for waiting in (self.timers, self.barriers):
                calls, waiting[:] = list(waiting), []
                for call in calls:
                    call()


def held(body: bytes) -> Message:
    return Message("", "gone", body, pika.BasicProperties(expiration="60000"), True)


def test_all_leave_in_order_once_the_queue_is_there() -> None:
    world = World()
    for body in (b"1", b"2"):
        world.come_back(body)
    assert world.returned.hold(held(b"3"))
    world.keep(held(b"3"))
    world.turn(3)
    assert set(world.sent) == {b"1"}, "one is enough to find out"
    world.sent.clear()
    world.is_there = True
    world.turn(4)
    assert world.sent == [b"1", b"2", b"3"]
    assert not world.returned.queues and world.kept == 0
    assert not world.returned.hold(held(b"4"))


def test_what_has_expired_is_dropped_and_counts_no_more() -> None:
    world = World()
    world.come_back(b"1", pika.BasicProperties(expiration="0"))
    world.turn(2)
    assert world.sent == [] and not world.returned.queues and world.kept == 0


def test_after_a_loss_all_that_was_under_way_is_sent_again() -> None:
    world = World()
    world.come_back(b"1")
    world.returned.hold(held(b"2"))
    world.turn()
    world.is_there, world.has_channel = True, False
    world.returned.on_lost()
    world.turn(3)
    world.sent.clear()
    world.has_channel = True
    world.returned.on_channel()
    world.turn(4)
    assert world.sent == [b"1", b"2"] and not world.returned.queues
