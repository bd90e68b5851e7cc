"""Whether messages wait for a consumer to which the broker sends none."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from mq_connector.consumer.unserved import PATIENCE, Unserved
from pika.spec import Queue


class Looks:
    """Looks at a queue, as long after each other as they say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self._now)
        self._unserved = Unserved()
        self.channel = channel()

    def after(self, seconds: float, ready: int, consumers: int = 1) -> int:
        self._now += seconds
        return self._unserved.seen(self.channel, Queue.DeclareOk("q", ready, consumers))


def channel(last_tag: int = 0, outstanding: int = 0) -> Any:
    return SimpleNamespace(last_tag=last_tag, outstanding=outstanding)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_messages_that_wait_and_do_not_come_are_seen(looks: Looks) -> None:
    assert looks.after(0, 5) == 0
    assert looks.after(PATIENCE / 2, 6) == 0, "it may be slow"
    assert looks.after(PATIENCE / 2, 7) == 7


def test_what_comes_meanwhile_is_a_sign_of_life(looks: Looks) -> None:
    looks.after(0, 5)
    looks.channel.last_tag = 1
    assert looks.after(PATIENCE, 5) == 0
    assert looks.after(PATIENCE - 1, 5) == 0
    assert looks.after(1, 5) == 5


@pytest.mark.parametrize("what", ["nothing waits", "one is in hand", "others consume"])
def test_where_there_is_a_reason_for_it_nothing_is_wrong(looks: Looks, what: str) -> None:
    ready, consumers = (0 if what == "nothing waits" else 5), (2 if what == "others consume" else 1)
    looks.channel.outstanding = int(what == "one is in hand")
    assert [looks.after(PATIENCE, ready, consumers) for _ in range(3)] == [0, 0, 0]
    looks.channel.outstanding = 0
    assert looks.after(PATIENCE, 5) == 0, "it counts from now on"
    assert looks.after(PATIENCE, 5) == 5


def test_a_new_channel_that_does_not_help_is_not_followed_by_more(looks: Looks) -> None:
    """As with a stream, which keeps what was handled long ago."""
    looks.after(0, 5)
    assert looks.after(PATIENCE, 5) == 5
    looks.channel = channel()
    assert [looks.after(PATIENCE, 5) for _ in range(5)] == [0] * 5
    looks.channel.last_tag = 1
    assert looks.after(1, 5) == 0
    assert looks.after(PATIENCE, 5) == 5, "since then something has come"
