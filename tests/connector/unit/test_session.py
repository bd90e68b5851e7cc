"""A connection for a caller who waits: it opens or says why not, and each operation has an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector.commands.session import Session
from mq_connector.connection.scratch import Steps
from mq_connector.errors import ChannelError, NotConnected, StartError
from pika import spec

from .fake_broker import PATIENCE, BrokerEnd, broker
from .members import nobody, refuse, serve


def declare(name: str) -> Steps:
    def operation(channel: Any, done: Callable[[Any], None]) -> None:
        channel.queue_declare(name, callback=done)

    return (yield operation).method


def test_operations_run_one_after_the_other_and_return_what_comes_of_them() -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        channel = peer.open_channel()
        for count in (1, 2):
            name = peer.expect(spec.Queue.Declare).queue
            peer.method(channel, spec.Queue.DeclareOk(name, count, 0))
        peer.farewell()

    with broker(script, version="4.2.1") as server:
        with Session([server.parameters()]) as session:
            assert session.run(declare("a")).message_count == 1
            assert session.run(declare("b")).message_count == 2
            assert session.link.broker.version == (4, 2, 1)
            assert session.is_well
        assert session.connection._loop is None


def test_what_the_broker_refuses_is_raised_and_the_session_goes_on() -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        channel = peer.open_channel()
        peer.expect(spec.Queue.Declare)
        peer.close_channel(channel, 405, "RESOURCE_LOCKED")
        channel = peer.open_channel()
        peer.expect(spec.Queue.Declare)
        peer.method(channel, spec.Queue.DeclareOk("b", 0, 0))
        peer.farewell()

    with broker(script) as server, Session([server.parameters()]) as session:
        with pytest.raises(ChannelError, match="405 RESOURCE_LOCKED"):
            session.run(declare("a"))
        assert session.run(declare("b")).queue == "b"


# ---- failures


def test_the_next_host_is_tried_where_the_first_is_down() -> None:
    with (
        broker(serve) as server,
        Session([nobody().parameters(), server.parameters()]) as session,
    ):
        assert session.is_well


def test_it_gives_up_when_every_host_has_failed_once() -> None:
    session = Session([nobody().parameters(), nobody().parameters()], timeout=PATIENCE)
    began = time.monotonic()
    with pytest.raises(NotConnected, match="connection refused"):
        session.open()
    assert time.monotonic() - began < 2
    assert session.connection._loop is None


def test_a_refusal_is_told_at_once_and_leaves_no_thread() -> None:
    with broker(refuse) as server:
        for _ in range(10):
            session = Session([server.parameters()], timeout=PATIENCE)
            began = time.monotonic()
            with pytest.raises(StartError, match="refuses user 'echo'"):
                session.open()
            assert time.monotonic() - began < 2
            assert session.connection._loop is None


def test_a_broker_that_does_not_greet_is_given_up_in_time() -> None:
    with broker(BrokerEnd.farewell) as server:
        session = Session([server.parameters()], timeout=0.3)
        with pytest.raises(NotConnected, match=r"no connection within 0\.3 s"):
            session.open()
        assert session.connection._loop is None


def test_an_operation_ends_with_the_connection() -> None:
    lose = threading.Event()

    def script(peer: BrokerEnd) -> None:
        peer.open()
        peer.open_channel()
        peer.expect(spec.Queue.Declare)
        lose.set()

    with (
        broker(script, BrokerEnd.farewell) as server,
        Session([server.parameters()], timeout=PATIENCE) as session,
    ):
        began = time.monotonic()
        with pytest.raises(NotConnected, match="lost"):
            session.run(declare("a"))
        assert lose.is_set() and time.monotonic() - began < 2
        with pytest.raises(NotConnected):
            session.run(declare("b"))
        with pytest.raises(NotConnected):
            _ = session.link


def test_an_operation_that_the_broker_owes_an_answer_ends_in_time() -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        peer.open_channel()
        peer.farewell()

    with (
        broker(script) as server,
        Session([server.parameters()], timeout=0.3) as session,
        pytest.raises(NotConnected, match=r"no answer from the broker within 0\.3 s"),
    ):
        session.run(declare("a"))
