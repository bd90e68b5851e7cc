"""A broker that says no for good ends the start with one line; it is never waited for in vain."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mq_connector import ConsumerThread, MQConnector
from mq_connector.errors import ConfigurationError, StartError
from waiting import eventually

from .broker import LIMITED, POWERLESS, VHOST, Broker
from .conftest import Consume, echo
from .peer import Peer


def refused(consume: Consume, at: Any, **options: Any) -> str:
    """Start where that is refused; returns the one line that says why."""
    told: list[Any] = []
    consumer: ConsumerThread = consume(
        echo, at=at, within=0, error_func=lambda *args: told.append(args), **options
    )
    consumer.join(60)
    assert not consumer.is_alive(), "still trying"
    assert isinstance(consumer.failure, StartError)
    assert not consumer.is_consuming
    assert told == [(consumer, consumer.failure)]
    line = str(consumer.failure)
    assert "\n" not in line
    return line


def test_a_wrong_password(broker: Broker, consume: Consume) -> None:
    line = refused(consume, broker.parameters(password="wrong secret"))
    assert "refuses user 'tester'" in line
    assert "wrong secret" not in line


def test_an_unknown_user(broker: Broker, consume: Consume) -> None:
    assert "refuses user 'nobody'" in refused(consume, broker.parameters(user="nobody"))


def test_an_unknown_vhost(broker: Broker, consume: Consume) -> None:
    assert "'/nowhere'" in refused(consume, broker.parameters(vhost="/nowhere"))


def test_a_vhost_without_permission(broker: Broker, consume: Consume) -> None:
    assert "'/neon_echo'" in refused(consume, broker.parameters(vhost="/neon_echo", user=POWERLESS))


@pytest.mark.parametrize("queue_type", ["auto", "quorum", "legacy"])
def test_a_queue_that_may_not_be_made(
    broker: Broker, consume: Consume, queue: str, queue_type: str
) -> None:
    line = refused(consume, broker.parameters(user=POWERLESS), queue_type=queue_type)
    assert queue in line and "permission" in line


def test_a_queue_that_may_not_be_read(broker: Broker, peer: Peer, consume: Consume) -> None:
    peer.declare("not for you")
    line = refused(consume, broker.parameters(user=LIMITED), queue="not for you")
    assert "not for you" in line and "permission" in line
    peer.channel.queue_delete("not for you")


def test_a_queue_of_somebody_else(broker: Broker, peer: Peer, queue: str, consume: Consume) -> None:
    peer.declare(queue, exclusive=True)
    assert "exclusively" in refused(consume, broker.parameters())


def test_a_queue_that_somebody_consumes_exclusively(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    peer.declare(queue)
    peer.channel.basic_consume(queue, lambda *_: None, exclusive=True)
    assert queue in refused(consume, broker.parameters())


@pytest.mark.parametrize(
    "options", [{"durable": True}, {"auto_delete": True}, {"arguments": {"x-max-length": 5}}]
)
@pytest.mark.parametrize("queue_type", ["auto", "quorum", "legacy"])
def test_a_queue_that_exists_is_taken_as_it_is(
    broker: Broker,
    peer: Peer,
    queue: str,
    consume: Consume,
    queue_type: str,
    options: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer.declare(queue, **options)
    consumer = consume(echo, queue_type=queue_type)
    assert "echo" in peer.ask(queue)
    assert consumer.failure is None
    warned = [text for text in caplog.messages if "used as it is" in text]
    assert bool(warned) is (queue_type != "auto")


def test_a_right_that_is_taken_away_later_is_told_ever_more_rarely(
    victim: Broker, queue: str, consume: Consume, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = consume(echo, at=victim.parameters(user=LIMITED))
    victim.ctl("set_permissions", "-p", VHOST, LIMITED, "^$", "^$", "^$")
    peer = Peer(victim.parameters())
    try:
        peer.channel.queue_delete(queue)
        eventually(
            lambda: consumer._supervision._attempts.failed >= 7, what="it has been tried 7 times"
        )
        told = [text for text in caplog.messages if "trying again" in text]
        assert 2 <= len(told) <= 3, told  # The 1st, 2nd and 4th time.
        assert "ACCESS_REFUSED" in told[0]
        said: list[str] = []
        consumer.look(said.append)
        assert "ACCESS_REFUSED" in said[0], "the health check knows why"
    finally:
        peer.close()
        victim.ctl("set_permissions", "-p", VHOST, LIMITED, r"^input\..*", ".*", r"^input\..*")
    eventually(lambda: consumer.is_consuming)


@pytest.mark.parametrize("whose", ["vhost", "user"])
def test_as_many_connections_as_are_allowed_are_waited_out_from_the_start(
    victim: Broker, queue: str, consume: Consume, whose: str
) -> None:
    """The broker gives it the code of a vhost that is refused (530), but time heals it."""
    one = '{"max-connections": 1}'
    where = ("-p", VHOST) if whose == "vhost" else (LIMITED,)
    at = victim.parameters(user=LIMITED)
    # Those of earlier tests would be counted as well.
    victim.ctl("close_all_connections", "--vhost", VHOST, "a test begins")
    other = Peer(at)
    _ = other.channel
    victim.ctl(f"set_{whose}_limits", *where, one)
    try:
        consumer = consume(echo, at=at, within=0)
        told = f"{'user ' if whose == 'user' else ''}connection limit (1) is reached"
        eventually(lambda: told in consumer.connection.last_error)
        assert "530 NOT_ALLOWED" in consumer.connection.last_error
        assert consumer.failure is None and not consumer.is_consuming
        other.close()
        eventually(lambda: consumer.is_consuming)
    finally:
        other.close()
        victim.ctl(f"clear_{whose}_limits", *where, *(["all"] if whose == "user" else []))


def test_a_refusal_after_the_start_is_waited_out(
    victim: Broker, queue: str, consume: Consume
) -> None:
    """Who has consumed once never gives up: what was taken away may be given back."""
    consumer = consume(echo, at=victim.parameters(user=LIMITED))
    peer = Peer(victim.parameters())
    victim.ctl("clear_permissions", "--vhost", VHOST, LIMITED)
    try:
        peer.channel.queue_delete(queue)
        eventually(lambda: not consumer.is_consuming)
        time.sleep(0.5)
        assert consumer.is_alive() and not consumer.is_consuming
    finally:
        victim.ctl("set_permissions", "--vhost", VHOST, LIMITED, r"^input\..*", ".*", r"^input\..*")
    eventually(lambda: consumer.is_consuming)
    assert "echo" in peer.ask(queue)
    peer.close()


class Stranger:
    """Listens, and answers whoever connects with the same bytes."""

    def __init__(self, words: bytes, reset: bool = False) -> None:
        self.visits = 0
        self._words = words
        self._reset = reset
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            with connection:
                connection.settimeout(2)
                connection.recv(8)
                connection.sendall(self._words)
                if self._reset:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.fixture
def stranger(request: pytest.FixtureRequest) -> Iterator[Stranger]:
    """A listener that is no broker: parametrize it with what it says."""
    stranger = Stranger(*request.param)
    yield stranger
    stranger.close()


@pytest.mark.parametrize(
    "stranger",
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n",), (b"AMQP\x00\x00\x09\x00",), (b"SSH-2.0-OpenSSH\r\n",)],
    ids=["HTTP", "AMQP 0-9", "SSH"],
    indirect=True,
)
def test_something_that_is_no_broker(broker: Broker, consume: Consume, stranger: Stranger) -> None:
    assert "doesn't speak AMQP" in refused(consume, broker.parameters(port=stranger.port))


@pytest.mark.parametrize("stranger", [(b"",), (b"", True)], ids=["closes", "resets"], indirect=True)
def test_a_listener_that_hangs_up_is_tried_again(
    broker: Broker, consume: Consume, stranger: Stranger
) -> None:
    """A booting broker does that, and a proxy before one."""
    consumer = consume(echo, at=broker.parameters(port=stranger.port), within=0)
    eventually(lambda: stranger.visits >= 3)
    assert consumer.is_alive() and consumer.failure is None


def test_a_configuration_without_credentials_fails_before_any_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MQ_USERNAME", "MQ_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    service = MQConnector({"users": {}}, service_name="mine")
    consumer = ConsumerThread(service.create_mq_connection(), "input.x", echo)
    consumer.start()
    consumer.join(60)
    assert isinstance(consumer.failure, ConfigurationError)
    assert "users.mine.username" in str(consumer.failure)
