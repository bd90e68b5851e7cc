"""What a task publishes, on a loop on which nothing may wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
import pytest
from mq_connector.consumer.outbox.hurried import Hurried

from .test_channel import Setup


class Crowded:
    """A channel on which there may be no room, and what is to be done aside."""

    def __init__(self) -> None:
        self.setup = Setup()
        self.setup.deliver(1)
        assert self.setup.opened.latest is not None
        self.delivery = self.setup.opened.latest
        self.aside: list[Callable[[], object]] = []
        self.is_full = True
        setup = self.setup
        setup.outbox.on_channel(setup.opened, lambda _: None)
        outbox: Any = setup.outbox
        outbox.may_have_to_wait = lambda _: self.is_full
        self.channel = setup.channel
        self.channel._delivery = self.delivery
        self.channel.go_on_aside(self.aside.append)

    @property
    def sent(self) -> list[str]:
        """Routing keys of what has left."""
        return [
            frame.method.routing_key
            for burst in self.setup.transport.bursts
            for frame in burst
            if hasattr(getattr(frame, "method", None), "routing_key")
        ]


def test_what_may_have_to_wait_is_published_aside_and_its_message_waits_for_it() -> None:
    crowded = Crowded()
    crowded.channel.basic_publish("", "one", b"1")
    crowded.is_full = False
    crowded.channel.basic_publish("", "two", b"2")  # not before the other
    assert crowded.sent == []
    confirms = crowded.delivery.confirms
    assert confirms is not None
    done: list[str] = []
    confirms.then(lambda: done.append("ok"), lambda error: done.append(str(error)))
    crowded.setup.link.run_calls()
    assert done == []
    for each in crowded.aside:
        each()
    crowded.setup.link.run_calls()
    assert crowded.sent == ["one", "two"]
    assert done == ["ok"]


def test_where_there_is_room_a_task_publishes_at_once() -> None:
    crowded = Crowded()
    crowded.is_full = False
    crowded.channel.basic_publish("", "one", b"1")
    assert crowded.sent == ["one"]
    assert crowded.delivery.confirms is None


def test_what_cannot_be_encoded_is_an_error_at_once() -> None:
    crowded = Crowded()
    with pytest.raises(ValueError, match="255"):
        crowded.channel.basic_publish("", "x" * 300, b"1")
    assert crowded.aside == []


def test_what_is_published_aside_keeps_its_headers_whatever_becomes_of_the_caller_s_table() -> None:
    crowded = Crowded()
    headers: dict[str, Any] = {"n": 1}
    crowded.channel.basic_publish("", "one", b"1", pika.BasicProperties(headers=headers))
    headers["n"] = 2
    for each in crowded.aside:
        each()
    crowded.setup.link.run_calls()
    [sent] = [burst[1].properties.headers for burst in crowded.setup.transport.bursts]
    assert sent == {"n": 1}


def test_a_publish_that_finds_no_room_after_all_fails_its_message() -> None:
    crowded = Crowded()

    def refuse(*_: Any) -> None:
        raise ValueError("no room")

    outbox: Any = crowded.setup.outbox
    outbox.publish = refuse
    crowded.channel.basic_publish("", "one", b"1")
    crowded.aside.pop()()
    done: list[str] = []
    assert crowded.delivery.confirms is not None
    crowded.delivery.confirms.then(lambda: done.append("ok"), lambda error: done.append(str(error)))
    crowded.setup.link.run_calls()
    assert done == ["no room"]


def test_what_was_declared_just_now_is_waited_for_aside() -> None:
    crowded = Crowded()
    crowded.is_full = False
    crowded.channel.queue_declare("q")
    crowded.channel.basic_publish("x", "one", b"1")
    assert isinstance(crowded.channel._outbox, Hurried)
    assert len(crowded.aside) == 2
