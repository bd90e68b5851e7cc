"""What waits is bounded where the publisher is, and what waits for a confirm keeps its order."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from mq_connector.consumer.opened import Confirms
from mq_connector.consumer.outbox import Room
from mq_connector.errors import NotConnected, PublishError
from waiting import eventually


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


class Waiting:
    """Confirms, and what of that which waits for them has had its turn."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []
        self.said: list[str] = []
        self.confirms = Confirms(self.calls.append)

    def then(self, what: str) -> None:
        self.confirms.then(
            lambda: self.said.append(what), lambda error: self.said.append(f"{what}: {error}")
        )

    def turn(self) -> list[str]:
        calls, self.calls[:] = list(self.calls), []
        for call in calls:
            call()
        return self.said


def test_what_waits_has_its_turn_in_order_once_all_is_confirmed() -> None:
    waiting = Waiting()
    waiting.confirms.expect()
    waiting.confirms.expect()
    waiting.then("reply")
    waiting.then("ack")
    waiting.confirms.outcome(None)
    assert waiting.turn() == []
    waiting.confirms.outcome(None)
    assert waiting.turn() == ["reply", "ack"]


def test_one_refusal_is_told_to_all_that_waits_and_to_what_comes_later() -> None:
    waiting = Waiting()
    waiting.confirms.expect()
    waiting.confirms.expect()
    waiting.then("reply")
    waiting.confirms.outcome(PublishError("404"))
    waiting.confirms.outcome(None)
    waiting.then("ack")
    assert waiting.turn() == ["reply: 404", "ack: 404"]
