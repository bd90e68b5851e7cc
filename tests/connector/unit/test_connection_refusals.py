"""Refusals that a connection tells its members of, and those that it waits out."""

from __future__ import annotations

import time
from collections.abc import Callable

import pika
import pytest
from mq_connector.connection import Connection
from mq_connector.connection.address import Address
from mq_connector.errors import ConfigurationError
from pika import spec

from .fake_broker import PATIENCE, BrokerEnd, broker
from .members import Listener, joined, on_loop, refuse, serve


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


def test_a_configuration_that_lacks_something_is_told_to_who_joins() -> None:
    def parameters() -> list[pika.ConnectionParameters]:
        raise ConfigurationError("no user")

    connection = Connection(Address(parameters))
    with pytest.raises(ConfigurationError, match="no user"):
        Listener(connection).join()
    assert connection._loop is None
    assert not connection._members
