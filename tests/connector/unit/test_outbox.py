"""Publishes without a channel: held in order, within bounds, and none forgotten."""

from __future__ import annotations

from typing import Any, cast

import pytest
from mq_connector.connection import Connection
from mq_connector.consumer import outbox as outbox_module
from mq_connector.consumer.channel import Channel, Publish
from mq_connector.consumer.outbox import Outbox
from mq_connector.errors import NotConnected


class OneChannel:
    """A channel that takes a number of publishes, then closes."""

    def __init__(self, outbox: list[Outbox], takes: int = 1000) -> None:
        self.taken: list[bytes] = []
        self.is_open = True
        self._outbox = outbox
        self._takes = takes

    def publish(self, publish: Publish) -> None:
        if not self.is_open:
            self._outbox[0].publish(publish)
            return
        self.taken.append(publish[2])
        self.is_open = len(self.taken) < self._takes


def message(body: bytes) -> Publish:
    return ("events", "", body, None, False)


class World:
    """An outbox whose channel comes and goes."""

    def __init__(self) -> None:
        self.channel: Any = None
        self.outbox = Outbox(Connection([]), lambda: self.channel, lambda *_: None)

    def connect(self, takes: int = 1000) -> OneChannel:
        self.channel = OneChannel([self.outbox], takes)
        self.outbox.send_held(cast(Channel, self.channel))
        return cast(OneChannel, self.channel)


def test_what_was_held_leaves_in_its_order_when_there_is_a_channel() -> None:
    world = World()
    for number in range(3):
        world.outbox.publish(message(b"%d" % number))
    channel = world.connect()
    world.outbox.publish(message(b"3"))
    assert channel.taken == [b"0", b"1", b"2", b"3"]
    assert world.connect().taken == [], "sent a second time"


def test_what_the_channel_no_longer_takes_is_held_for_the_next() -> None:
    world = World()
    for number in range(5):
        world.outbox.publish(message(b"%d" % number))
    assert world.connect(takes=2).taken == [b"0", b"1"]
    assert world.connect().taken == [b"2", b"3", b"4"]


def test_more_than_may_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_MOST_HELD", 3)
    world = World()
    for number in range(3):
        world.outbox.publish(message(b"%d" % number))
    with pytest.raises(NotConnected, match="3 messages already wait"):
        world.outbox.publish(message(b"one too many"))
    assert world.connect().taken == [b"0", b"1", b"2"]


def test_few_large_messages_fill_it_as_well_and_room_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "_MOST_BYTES_HELD", 1000)
    world = World()
    for _ in range(3):
        world.outbox.publish(message(b"x" * 500))
        world.outbox.publish(message(b"x" * 500))
        with pytest.raises(NotConnected, match="2 messages already wait"):
            world.outbox.publish(message(b"x"))
        assert len(world.connect().taken) == 2
        world.channel = None
