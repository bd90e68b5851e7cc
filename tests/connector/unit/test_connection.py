"""Connecting, staying connected, and the failures that a connection tells its member of."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
import pytest
from mq_connector.connection import Connection
from mq_connector.connection import loop as loop_module
from mq_connector.connection.address import Address
from mq_connector.connection.supervised import connection_to
from mq_connector.errors import ConfigurationError, NotConnected
from pika import spec
from pika.adapters.select_connection import IOLoop
from waiting import eventually

from .fake_broker import PATIENCE, BrokerEnd, broker
from .fakes import be_a_child
from .members import Listener, hang_up, joined, nobody, on_loop, refuse, serve, thread_of


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


# ---- failures


def test_a_connection_that_is_lost_is_opened_again() -> None:
    with broker(hang_up, hang_up, serve) as server, joined(server) as [member]:
        assert member.wait(5) == ["open", "lost", "open", "lost", "open"]


@pytest.mark.parametrize(
    ("code", "text"), [(320, "CONNECTION_FORCED"), (541, "INTERNAL_ERROR"), (501, "FRAME_ERROR")]
)
def test_a_connection_that_the_broker_closes_is_opened_again(code: int, text: str) -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        peer.close(code, text)

    with broker(script, serve) as server, joined(server) as [member]:
        assert member.wait(3) == ["open", "lost", "open"]


def test_what_is_no_amqp_ends_the_connection_and_it_is_opened_again() -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        peer.send(b"\xff" * 100)
        peer.farewell()

    with broker(script, serve) as server, joined(server) as [member]:
        assert member.wait(3) == ["open", "lost", "open"]


def test_one_host_after_the_other_is_tried_without_a_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with broker(serve) as server, joined(nobody(), nobody(), server) as [member]:
        assert member.wait(1) == ["open"]
        assert caplog.text.count("trying again in 0.00 s") == 2


def test_a_host_is_not_taken_for_a_bad_one_because_we_have_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who opens a connection a second time begins with the first host again, and without a pause."""
    with broker(serve) as server:
        connection = Connection([server.parameters(), nobody().parameters()])
        for _ in range(3):
            member = Listener(connection).join()
            assert member.wait(1) == ["open"]
            member.quit()
    assert "trying again" not in caplog.text


def test_while_the_broker_is_down_it_says_so_and_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with joined(nobody()) as [member]:
        failures: list[int] = []
        member.connection.on_failure = failures.append
        eventually(lambda: caplog.text.count("trying again") >= 3, PATIENCE)  # 1st, 2nd, 4th.
        assert "connection refused; trying again in 0." in caplog.text
        assert "(attempt 4)" in caplog.text
        assert member.connection.last_error.endswith("connection refused")
        assert member.events == []
        assert 3 in failures


def test_the_same_trouble_is_logged_a_few_times_and_then_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = Connection([])
    for _ in range(200):
        connection.attempts.complain("no connection", "trying again")
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 6 + 3
    connection.attempts.complain("another reason", "trying again")
    assert caplog.records[-1].levelname == "WARNING"


def test_pauses_grow_up_to_a_bound_until_the_connection_has_been_of_use() -> None:
    connection = Connection([])
    pauses = []
    for failures in range(12):
        connection.attempts.failed = failures
        pauses.append([connection.attempts.pause_with(1) for _ in range(50)])
    assert max(pauses[0]) <= 0.05
    assert max(max(each) for each in pauses) <= 0.8
    assert min(pauses[-1]) >= 0.4
    assert len(set(pauses[-1])) > 1, "services must not come back in step"
    connection.last_error = "down"
    connection.used()
    assert max(connection.attempts.pause_with(1) for _ in range(50)) <= 0.05
    assert connection.last_error == ""


def test_links_that_open_and_are_of_no_use_get_longer_pauses_than_a_broker_that_is_down() -> None:
    connection = Connection([])
    for useless in range(12):
        connection.attempts.useless = useless
        assert connection.attempts.pause_with(1) <= 2.5
    assert min(connection.attempts.pause_with(1) for _ in range(50)) >= 1.25
    connection.accepted()
    assert min(connection.attempts.pause_with(1) for _ in range(50)) >= 1.25, (
        "to consume is no proof yet"
    )


def no_such_vhost(peer: BrokerEnd) -> None:
    peer.greet()
    peer.tune()
    peer.close(530, "NOT_ALLOWED - vhost /echo not found")


def web_server(peer: BrokerEnd) -> None:
    peer.sock.recv(8)
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def older_protocol(peer: BrokerEnd) -> None:
    peer.sock.recv(8)
    peer.send(b"AMQP\x01\x01\x00\x08")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (refuse, "refuses user 'echo'"),
        (no_such_vhost, "can't use vhost '/echo'"),
        (web_server, "doesn't speak AMQP 0-9-1"),
        (older_protocol, "doesn't speak AMQP 0-9-1"),
    ],
)
def test_a_refusal_that_time_does_not_heal_is_told(
    script: Callable[[BrokerEnd], None], words: str
) -> None:
    with broker(script) as server, joined(server) as [member]:
        [event] = member.wait(1)
        assert event.startswith("refused: ")
        assert words in event


def test_who_leaves_when_the_broker_has_just_said_no_does_not_wait() -> None:
    """The loop is about to end then, and may not come to what it is asked for."""
    with broker(refuse) as server:
        for _ in range(30):
            member = Listener(Connection([server.parameters()])).join()
            member.wait(1)
            began = time.monotonic()
            member.quit()
            assert time.monotonic() - began < 2.0


def test_nobody_waits_for_a_thread_that_ends_before_it_has_looked_at_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with broker(refuse) as server:
        connection = Connection([server.parameters()])
        member = Listener(connection).join()
        loop = connection._loop
        assert loop is not None
        member.wait(1)
        loop.thread.join(PATIENCE)
        # As it looks to who has asked just before.
        monkeypatch.setattr(connection, "_loop", loop)
        began = time.monotonic()
        member.quit()
        assert time.monotonic() - began < 1.0


def test_after_a_refusal_the_next_member_may_try_again() -> None:
    with broker(refuse, serve) as server:
        connection = Connection([server.parameters()])
        first = Listener(connection).join()
        first.wait(1)
        second = Listener(connection).join()
        assert second.wait(1) == ["open"]
        second.quit()
        first.quit()


@pytest.mark.parametrize("success", ["used", "accepted"])
def test_a_refusal_after_a_success_is_waited_out_and_the_configuration_asked_again(
    success: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A password has been changed, or a broker that starts doesn't know its users yet."""
    passwords = iter(["old", "new", "newer", "newest"])
    seen: list[bytes] = []

    def note(peer: BrokerEnd) -> None:
        seen.append(peer.greet().response.split(b"\0")[-1])

    def lose(peer: BrokerEnd) -> None:
        note(peer)
        peer.tune()
        peer.method(0, spec.Connection.OpenOk())
        peer.expect(spec.Channel.Open)

    def no(peer: BrokerEnd) -> None:
        note(peer)
        peer.close(403, "ACCESS_REFUSED - Login was refused")

    def yes(peer: BrokerEnd) -> None:
        note(peer)
        peer.tune()
        peer.method(0, spec.Connection.OpenOk())
        peer.farewell()

    with broker(lose, no, no, yes) as server:

        def configured() -> list[pika.ConnectionParameters]:
            parameters = server.parameters()
            parameters.credentials = pika.PlainCredentials("echo", next(passwords))
            return [parameters]

        connection = Connection(Address(configured))
        member = Listener(connection).join()
        member.wait(1)

        def prove() -> None:
            getattr(connection, success)()
            assert member.link is not None
            member.link.amqp.channel()

        on_loop(connection, prove)
        assert member.wait(3) == ["open", "lost", "open"]
        member.quit()
    assert seen == [b"old", b"old", b"new", b"newer"]
    assert "refuses user 'echo'" in caplog.text


def close_at_once(peer: BrokerEnd) -> None:
    """As a proxy does whose broker isn't up."""


def close_after_the_header(peer: BrokerEnd) -> None:
    peer.sock.recv(8)


def close_while_logging_in(peer: BrokerEnd) -> None:
    peer.greet()


def close_while_tuning(peer: BrokerEnd) -> None:
    peer.greet()
    peer.tune()


def vhost_is_down(peer: BrokerEnd) -> None:
    peer.greet()
    peer.tune()
    peer.close(541, "INTERNAL_ERROR - access to vhost '/echo' refused: vhost is down")


@pytest.mark.parametrize(
    "script",
    [
        close_at_once,
        close_after_the_header,
        close_while_logging_in,
        close_while_tuning,
        vhost_is_down,
    ],
)
def test_a_broker_that_is_not_ready_yet_is_tried_until_it_is(
    script: Callable[[BrokerEnd], None],
) -> None:
    with broker(script, script, serve) as server, joined(server) as [member]:
        assert member.wait(1) == ["open"]
        assert server.count == 3


def test_a_peer_that_was_given_up_is_replaced() -> None:
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        on_loop(member.connection, member.connection.drop)
        assert member.wait(3) == ["open", "lost", "open"]


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


def test_a_configuration_that_lacks_something_is_told_to_who_joins() -> None:
    def parameters() -> list[pika.ConnectionParameters]:
        raise ConfigurationError("no user")

    connection = Connection(Address(parameters))
    with pytest.raises(ConfigurationError, match="no user"):
        Listener(connection).join()
    assert connection._loop is None
    assert not connection._members


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


def test_a_port_that_drops_everything_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        parameters = pika.ConnectionParameters(
            "127.0.0.1", silent.getsockname()[1], connection_attempts=1, stack_timeout=0.3
        )
        member = Listener(Connection([parameters])).join()
        eventually(lambda: member.connection.last_error, PATIENCE)
        assert "imeout" in member.connection.last_error
        member.quit()


def test_a_broker_that_takes_no_messages_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        peer.method(0, spec.Connection.Blocked("low on memory"))
        peer.method(0, spec.Connection.Unblocked())
        peer.farewell()

    with broker(script) as server, joined(server):
        eventually(lambda: "takes messages again" in caplog.text, PATIENCE)
        assert "the broker takes no messages: low on memory (resource alarm); " in caplog.text


# ---- a loop that fails


def test_a_loop_that_fails_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)
    with broker(serve) as server, joined(server) as [member]:
        member.wait(1)
        connection = member.connection

        def fail() -> None:
            raise RuntimeError("a bug in pika")

        on_loop(connection, lambda: connection.later(0, fail))
        assert member.wait(3) == ["open", "lost", "open"]
        assert "the loop of a connection failed" in caplog.text
        assert thread_of(connection).is_alive()


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
