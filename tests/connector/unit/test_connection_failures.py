"""Staying connected: losses, hosts that are down, and the pauses between attempts."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pika
import pytest
from mq_connector.connection import Connection
from pika import spec
from waiting import eventually

from .fake_broker import PATIENCE, BrokerEnd, broker
from .members import Listener, hang_up, joined, nobody, on_loop, serve


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


def test_a_port_that_drops_everything_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        parameters = pika.ConnectionParameters(
            "127.0.0.1", silent.getsockname()[1], connection_attempts=1, stack_timeout=0.3
        )
        member = Listener(Connection([parameters])).join()
        eventually(lambda: member.connection.last_error, PATIENCE)
        assert member.connection.last_error.endswith(": no answer in time")
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
