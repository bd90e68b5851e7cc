"""One life of a connection: what it knows of its broker, and a second one beside it."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from mq_connector.connection import loop as loop_module
from mq_connector.connection.link import LINGER, Lingering
from mq_connector.errors import ChannelError, MQError
from pika import spec

from .fake_broker import PATIENCE, BrokerEnd, Gone, broker
from .fakes import FakeConnection
from .members import joined, on_loop, refuse, serve


def test_it_knows_the_broker_s_version_and_what_that_takes_from_us() -> None:
    with broker(serve, version="4.1.0-rc.1+2") as server, joined(server) as [member]:
        member.wait(1)
        link = member.link
        assert link is not None and link.is_open
        assert link.broker.version == (4, 1, 0)
        assert link.broker.may_relax and not link.broker.may_deny_transient
        encode = link.encoder
        assert encode is not link.encoder, "each channel has its own, as it remembers the last"
        with pytest.raises(ValueError, match="only takes 'echo'"):
            encode(spec.BasicProperties(user_id="somebody"))


def test_a_link_that_is_lost_is_not_open_and_another_one_is() -> None:
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        first = member.link
        assert first is not None
        on_loop(member.connection, first.drop)
        member.wait(3)
        assert member.link is not first
        assert not first.is_open and member.link is not None and member.link.is_open
        on_loop(member.connection, first.drop)  # of no consequence any more
        assert member.link.is_open


def test_a_second_connection_shares_the_loop_and_its_end_is_told_once() -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        peer.close(541, "INTERNAL_ERROR - deprecated")

    with broker(serve, script, refuse, serve) as server, joined(server) as [member]:
        member.wait(1)
        link = member.link
        assert link is not None
        told: list[str] = []
        changed = threading.Semaphore(0)

        def on_gone(reason: str) -> None:
            told.append(reason)
            changed.release()

        for _ in range(2):
            on_loop(member.connection, lambda: link.sibling(lambda _: told.append("open"), on_gone))
            assert changed.acquire(timeout=PATIENCE)
        assert told[:2] == ["open", "541 INTERNAL_ERROR - deprecated"]
        assert told[2].startswith("403 ACCESS_REFUSED")
        assert member.events == ["open"], "the first connection is unharmed"


def declare(channel: Any, done: Any) -> None:
    channel.queue_declare("q", callback=done)


def test_what_waits_on_the_second_connection_ends_with_the_first() -> None:
    opened, left = threading.Event(), threading.Event()

    def owe(peer: BrokerEnd) -> None:
        peer.open()
        peer.open_channel()
        peer.expect(spec.Queue.Declare)
        opened.set()
        with pytest.raises(Gone):
            while True:
                peer.read()
        left.set()

    with broker(serve, owe, serve) as server, joined(server) as [member]:
        member.wait(1)
        link = member.link
        assert link is not None
        ends: list[MQError | None] = []
        on_loop(
            member.connection, lambda: link.apart.do(declare, lambda _, error: ends.append(error))
        )
        assert opened.wait(PATIENCE)
        on_loop(member.connection, member.connection.drop)
        member.wait(3)
        assert [type(each).__name__ for each in ends] == ["NotConnected"]
        assert left.wait(60), "though the second one owes an answer, which pika would wait for"


def test_a_loop_that_fails_while_there_is_a_second_connection_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)
    opened = threading.Event()

    def open_and_wait(peer: BrokerEnd) -> None:
        peer.open()
        peer.open_channel()
        opened.set()
        peer.farewell()

    with broker(serve, open_and_wait, serve) as server, joined(server) as [member]:
        member.wait(1)
        link = member.link
        assert link is not None
        ends: list[MQError | None] = []
        on_loop(
            member.connection, lambda: link.apart.do(declare, lambda _, error: ends.append(error))
        )
        assert opened.wait(PATIENCE)

        def fail() -> None:
            raise RuntimeError("a bug in pika")

        on_loop(member.connection, lambda: member.connection.later(0, fail))
        assert member.wait(3) == ["open", "lost", "open"]
        assert [type(each).__name__ for each in ends] == ["NotConnected"]


def test_more_channels_than_the_broker_allows_are_refused_in_words() -> None:
    def few(peer: BrokerEnd) -> None:
        peer.channel_max = 1
        peer.open()
        peer.open_channel()
        peer.farewell()

    with broker(few) as server, joined(server) as [member]:
        member.wait(1)
        link = member.link
        assert link is not None
        errors: list[MQError] = []

        def open_two() -> None:
            link.channel(lambda _: None)
            try:
                link.channel(lambda _: None)
            except ChannelError as error:
                errors.append(error)

        on_loop(member.connection, open_two)
        [error] = errors
        assert str(error).startswith("530 the broker allows 1 channels on a connection")


def test_one_timer_serves_all_channels_that_have_something_to_send_before_long() -> None:
    loop = FakeConnection()
    lingering = Lingering(loop.call, loop.later)
    flushed = []
    left = {"a": 1, "b": 0}

    def flush(name: str) -> bool:
        flushed.append(name)
        left[name] -= 1
        return left[name] >= 0

    for name in left:
        lingering.add(partial(flush, name))
    assert len(loop.calls) == 1, "the loop is woken once"
    loop.run_calls()
    assert [seconds for seconds, _ in loop.timers] == [LINGER]
    loop.run_timers()
    assert flushed == ["a", "b"]
    loop.run_timers()
    assert flushed == ["a", "b", "a"], "again, as long as there was something"
    assert not loop.timers and not loop.calls, "and no longer"
    lingering.add(partial(flush, "b"))
    loop.run_calls()
    loop.run_timers()
    assert flushed[-1] == "b"


def test_what_comes_while_all_are_sent_has_its_turn_too() -> None:
    loop = FakeConnection()
    lingering = Lingering(loop.call, loop.later)
    late = []

    def first() -> bool:
        lingering.add(lambda: bool(late.append("late")))  # type: ignore[func-returns-value]
        return False

    lingering.add(first)
    loop.run_calls()
    loop.run_timers()
    loop.run_calls()
    assert not late
    loop.run_timers()
    assert late == ["late"]
