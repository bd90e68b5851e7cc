"""A loop that fails, as by a bug of pika's, is begun again."""

from __future__ import annotations

import os
import threading
from typing import Any

import pika
import pytest
from mq_connector.connection import Connection
from mq_connector.connection import loop as loop_module
from pika.adapters.select_connection import IOLoop
from waiting import eventually

from .fake_broker import PATIENCE, broker
from .members import Listener, joined, on_loop, serve, thread_of


@pytest.mark.parametrize("error", [RuntimeError("a bug in pika"), SystemExit(3)])
def test_a_loop_that_fails_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        connection = member.connection

        def fail() -> None:
            raise error

        on_loop(connection, lambda: connection.later(0, fail))
        assert member.wait(3) == ["open", "lost", "open"]
        assert "the loop of a connection failed" in caplog.text
        assert thread_of(connection).is_alive()


def test_a_call_on_the_loop_may_raise_anything(caplog: pytest.LogCaptureFixture) -> None:
    def leave() -> None:
        raise SystemExit(3)

    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        turns = threading.Event()
        member.connection.call(leave)
        member.connection.call(turns.set)
        assert turns.wait(PATIENCE)
        assert member.wait(1) == ["open"]
    assert "a call on the loop of a connection failed" in caplog.text


def test_a_loop_that_can_t_even_begin_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)
    loop = IOLoop
    failures = [OSError("too many open files")] * 2

    def make() -> Any:
        if failures:
            raise failures.pop()
        return loop()

    monkeypatch.setattr(loop_module, "IOLoop", make)
    with broker(serve) as server, joined(server) as [member]:
        assert member.wait(1) == ["open"]


def test_a_loop_that_keeps_failing_ends_when_the_last_member_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)
    tried: list[int] = []

    def fail() -> Any:
        tried.append(1)
        raise OSError("too many open files")

    monkeypatch.setattr(loop_module, "IOLoop", fail)
    connection = Connection([pika.ConnectionParameters()])
    member = Listener(connection).join()
    ours = connection._loop
    assert ours is not None
    eventually(lambda: len(tried) > 2)
    member.quit()
    ours.thread.join(PATIENCE)
    assert not ours.thread.is_alive()


def test_a_timer_set_while_the_loop_is_being_replaced_goes_off_on_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)
    went = threading.Event()

    class Late(Listener):
        def on_lost(self, error: BaseException) -> None:
            super().on_lost(error)
            self.connection.later(0.01, went.set)

    with broker(serve) as server:
        member = Late(Connection([server.parameters()])).join()
        member.wait(1)

        def fail() -> None:
            raise RuntimeError("a bug in pika")

        on_loop(member.connection, lambda: member.connection.later(0, fail))
        assert went.wait(PATIENCE)
        member.wait(3)
        member.quit()


def test_a_call_may_come_though_the_loop_cannot_be_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls, such as a worker, isn't the one to suffer: the loop fails by itself, and the next one does it."""
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        connection = member.connection
        called = threading.Event()
        loop: Any = connection._loop
        poller = loop.io._poller
        # Not by their numbers alone: they would be closed once more later, when they are somebody else's.
        for each in (poller._w_interrupt, poller._r_interrupt):
            os.close(each.detach())
        poller._poll.close()
        connection.call(called.set)
        assert called.wait(PATIENCE)
        assert member.wait(3) == ["open", "lost", "open"]
