"""Connecting, what is called on the loop, and how a connection is left."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pika
import pytest
from mq_connector.connection import Connection
from mq_connector.connection.supervised import connection_to
from mq_connector.errors import NotConnected
from pika import spec
from waiting import eventually

from .fake_broker import PATIENCE, BrokerEnd, broker
from .fakes import be_a_child
from .members import Listener, hang_up, joined, nobody, on_loop, serve, thread_of


def test_it_opens_when_somebody_joins_and_closes_politely() -> None:
    said: list[object] = []

    def script(peer: BrokerEnd) -> None:
        peer.open()
        said.append(peer.expect(spec.Connection.Close).reply_code)
        peer.method(0, spec.Connection.CloseOk())

    with broker(script) as server:
        connection = Connection([server.parameters()])
        assert not connection.is_open
        member = Listener(connection).join()
        assert member.wait(1) == ["open"]
        assert connection.is_open
        assert member.link is connection.link
        member.quit()
        assert member.events == ["open"], "who has left hears nothing more"
        assert not connection.is_open
    assert said == [200]


def test_its_thread_ends_with_it_and_another_one_begins_with_the_next_member() -> None:
    with broker(serve) as server:
        connection = Connection([server.parameters()])
        threads = []
        for _ in range(3):
            member = Listener(connection).join()
            member.wait(1)
            threads.append(thread_of(connection))
            member.quit()
            assert not threads[-1].is_alive()
        assert len(set(threads)) == 3
        assert server.count == 3


def test_the_host_that_was_lost_is_the_last_to_be_tried_again() -> None:
    lose = threading.Event()
    down = nobody()

    def lost_when_told(peer: BrokerEnd) -> None:
        peer.open()
        lose.wait(PATIENCE)

    with (
        broker(lost_when_told) as second,
        broker(serve) as third,
        joined(down, second, third) as [member],
    ):
        assert member.wait(1) == ["open"]
        connection, tried = member.connection, []
        assert member.link is not None
        assert member.link.amqp.params.port == second.parameters().port
        on_loop(connection, connection.used)  # it has consumed, say
        connection.on_failure = lambda failed: tried.append(connection.last_error)
        lose.set()
        assert member.wait(3) == ["open", "lost", "open"]
        assert member.link.amqp.params.port == third.parameters().port
        assert tried == [], "a host was asked again that had just been lost"


def test_calls_run_on_the_loop_in_their_order() -> None:
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        connection = member.connection
        seen: list[object] = []
        for number in range(100):
            connection.call(lambda number=number: seen.append(number))  # type: ignore[misc]
        on_loop(connection, lambda: seen.append(connection.is_own_thread))
        assert seen == [*range(100), True]
        assert not connection.is_own_thread


def test_a_call_that_fails_ends_neither_the_loop_nor_the_calls_behind_it() -> None:
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        seen: list[float] = []
        member.connection.call(lambda: seen.append(1 // 0))
        on_loop(member.connection, lambda: seen.append(2))
        assert seen == [2]


def test_calls_that_nobody_is_there_to_run_do_no_harm() -> None:
    with broker(serve) as server:
        connection = Connection([server.parameters()])
        seen: list[int] = []
        connection.call(lambda: seen.append(1))
        member = Listener(connection).join()
        member.wait(1)
        on_loop(connection, lambda: seen.append(2))
        member.quit()
        connection.call(lambda: seen.append(3))
        member.join().wait(2)
        member.quit()
        assert seen == [2]


def test_timers_go_off_on_the_loop() -> None:
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        connection = member.connection
        went: list[tuple[float, bool]] = []
        began = time.monotonic()
        on_loop(
            connection,
            lambda: connection.later(
                0.05, lambda: went.append((time.monotonic() - began, connection.is_own_thread))
            ),
        )
        eventually(lambda: went)
        [(after, on_own_thread)] = went
        assert on_own_thread and after >= 0.05


def test_what_is_given_a_connection_uses_it_and_what_is_given_an_address_gets_its_own() -> None:
    connection = Connection([])
    assert connection_to(connection) is connection
    parameters = pika.ConnectionParameters("one.example")
    other = connection_to(parameters)
    assert list(other.address.parameters) == [parameters]
    assert list(connection_to((parameters,)).address.parameters) == [parameters]
    assert connection_to(other.address).address is other.address
    assert connection_to(other.address) is not other


def test_a_broker_that_does_not_answer_the_farewell_is_left_after_two_seconds() -> None:
    left = threading.Event()

    def script(peer: BrokerEnd) -> None:
        peer.open()
        left.wait(PATIENCE)

    with broker(script) as server, joined(server) as [member]:
        member.wait(1)
        began = time.monotonic()
        member.quit()
        assert 1.5 < time.monotonic() - began < 5
        left.set()


def test_it_can_be_left_while_it_is_connecting() -> None:
    with broker(lambda peer: peer.farewell()) as server, joined(server) as [member]:
        eventually(lambda: server.count, PATIENCE)  # which greets nobody
        member.quit()
        assert member.events == []


def test_it_can_be_left_while_it_waits_to_try_again() -> None:
    with joined(nobody()) as [member]:
        eventually(lambda: member.connection.last_error, PATIENCE)
        member.quit()
        assert member.events == []


def test_many_connections_leave_no_descriptors_behind() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to count open files")
    with broker(*[hang_up] * 5, serve) as server:
        before = descriptors()
        with joined(server) as [member]:
            member.wait(5)
            early = descriptors()
            member.wait(11)
            assert descriptors() <= early + 2
    assert descriptors() <= before


def test_calls_made_while_the_loop_ends_are_no_error() -> None:
    """A worker may publish in the very moment in which the loop closes."""
    failures: list[BaseException] = []
    for _ in range(30):
        with joined(nobody()) as [member]:
            stop = threading.Event()

            def call(connection: Connection = member.connection, stop: Any = stop) -> None:
                while not stop.is_set():
                    try:
                        connection.call(lambda: None)
                    except BaseException as error:
                        failures.append(error)
                        return

            calling = threading.Thread(target=call)
            calling.start()
            member.quit()
            stop.set()
            calling.join(PATIENCE)
    assert failures == []


def test_a_forked_child_is_sent_away_before_a_lock_that_its_parent_may_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        connection = member.connection
        said: list[str] = []

        def in_child() -> None:
            for attempt in (lambda: connection.call(print), lambda: Listener(connection).join()):
                try:
                    attempt()
                except NotConnected as error:
                    said.append(str(error))

        with monkeypatch.context() as child, connection._lock:
            be_a_child(child)
            thread = threading.Thread(target=in_child)
            thread.start()
            thread.join(1.0)
            assert not thread.is_alive()
        assert [words[:23] for words in said] == ["this process was forked"] * 2
