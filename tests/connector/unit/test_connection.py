"""Connecting, staying connected, and the failures that a connection tells its listener of."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pika
import pytest
from mq_connector.connection import Connection
from mq_connector.errors import ConfigurationError
from pika import spec

from .fake_broker import PATIENCE, FakeBroker, Peer, broker


class Listener:
    """Writes down what it hears, and can wait for it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._changed = threading.Condition()

    def _hear(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def on_open(self) -> None:
        self._hear("open")

    def on_lost(self) -> None:
        self._hear("lost")

    def on_refused(self, reason: str) -> None:
        self._hear(f"refused: {reason}")

    def wait(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events) >= count, PATIENCE), self.events
            return self.events[:count]


class Running:
    """A connection in a thread."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.listener = Listener()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.connection.run(self.listener)
        except BaseException as error:
            self.error = error

    def on_loop(self, function: Callable[[], object]) -> None:
        ran = threading.Event()
        self.connection.call(lambda: (function(), ran.set()))
        assert ran.wait(PATIENCE)

    def close(self) -> None:
        self.connection.call(self.connection.close)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


Run = Callable[..., Running]


@pytest.fixture
def run() -> Iterator[Run]:
    all_running: list[Running] = []

    def start(*brokers: FakeBroker) -> Running:
        all_running.append(Running(Connection([each.parameters() for each in brokers])))
        return all_running[-1]

    yield start
    for each in all_running:
        each.close()


def serve(peer: Peer) -> None:
    peer.open()
    peer.farewell()


def hang_up(peer: Peer) -> None:
    peer.open()


def refuse(peer: Peer) -> None:
    peer.greet()
    peer.close(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")


def nobody() -> FakeBroker:
    """A broker that is down."""
    down = FakeBroker(serve)
    down.close()
    return down


def test_it_opens_and_closes_politely(run: Run) -> None:
    said: list[object] = []

    def script(peer: Peer) -> None:
        peer.open()
        said.append(peer.expect(spec.Connection.Close).reply_code)
        peer.method(0, spec.Connection.CloseOk())

    with broker(script, version="4.1.0-rc.1+2") as server:
        running = run(server)
        assert running.listener.wait(1) == ["open"]
        assert running.connection.is_open
        assert running.connection.broker_version == (4, 1, 0)
        running.close()
        assert running.listener.events == ["open", "lost"]
        assert not running.connection.is_open
    assert said == [200]


def test_calls_run_on_the_loop_in_their_order(run: Run) -> None:
    with broker(serve) as server:
        running = run(server)
        running.listener.wait(1)
        seen: list[object] = []
        for number in range(100):
            running.connection.call(lambda number=number: seen.append(number))
        running.on_loop(lambda: seen.append(threading.current_thread()))
        assert seen == [*range(100), running.thread]
        running.close()


def test_a_call_that_fails_ends_neither_the_loop_nor_the_calls_behind_it(run: Run) -> None:
    with broker(serve) as server:
        running = run(server)
        running.listener.wait(1)
        seen: list[int] = []
        running.connection.call(lambda: seen.append(1 // 0))
        running.on_loop(lambda: seen.append(2))
        assert seen == [2]
        running.close()


def test_calls_made_before_it_runs_are_kept(run: Run) -> None:
    with broker(serve) as server:
        connection = Connection([server.parameters()])
        called = threading.Event()
        connection.call(called.set)
        running = Running(connection)
        assert called.wait(PATIENCE)
        running.listener.wait(1)
        running.close()


def test_parameters_are_asked_for_when_they_are_needed_and_once() -> None:
    asked: list[int] = []

    def parameters() -> list[pika.ConnectionParameters]:
        asked.append(1)
        return [pika.ConnectionParameters()]

    connection = Connection(parameters)
    other = connection.another()
    assert asked == []
    assert connection.parameters is connection.parameters
    assert asked == [1]
    assert other.parameters is not connection.parameters


# ---- failures


def test_a_connection_that_is_lost_is_opened_again(run: Run) -> None:
    with broker(hang_up, hang_up, serve) as server:
        running = run(server)
        assert running.listener.wait(5) == ["open", "lost", "open", "lost", "open"]
        running.close()


@pytest.mark.parametrize(
    ("code", "text"), [(320, "CONNECTION_FORCED"), (541, "INTERNAL_ERROR"), (501, "FRAME_ERROR")]
)
def test_a_connection_that_the_broker_closes_is_opened_again(
    run: Run, code: int, text: str
) -> None:
    def script(peer: Peer) -> None:
        peer.open()
        peer.close(code, text)

    with broker(script, serve) as server:
        running = run(server)
        assert running.listener.wait(3) == ["open", "lost", "open"]
        running.close()


def test_what_is_no_amqp_ends_the_connection_and_it_is_opened_again(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.open()
        peer.send(b"\xff" * 100)
        peer.farewell()

    with broker(script, serve) as server:
        running = run(server)
        assert running.listener.wait(3) == ["open", "lost", "open"]
        running.close()


def test_one_host_after_the_other_is_tried_without_a_pause(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with broker(serve) as server:
        running = run(nobody(), nobody(), server)
        assert running.listener.wait(1) == ["open"]
        assert caplog.text.count("trying again in 0.00 s") == 2
        running.close()


def test_while_the_broker_is_down_it_says_so_and_tries_again(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    running = run(nobody())
    deadline = time.monotonic() + PATIENCE
    while caplog.text.count("trying again") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "connection refused; trying again in 0." in caplog.text
    assert "(attempt 3)" in caplog.text
    assert running.connection.trouble.endswith("connection refused")
    assert running.listener.events == []


def test_pauses_grow_up_to_a_bound_until_the_connection_has_proven_itself() -> None:
    connection = Connection([])
    pauses = []
    for failures in range(12):
        connection._failures = failures
        pauses.append([connection._pause(1) for _ in range(50)])
    assert max(pauses[0]) <= 0.05
    assert max(max(each) for each in pauses) <= 0.8
    assert min(pauses[-1]) >= 0.4
    assert len(set(pauses[-1])) > 1, "services must not come back in step"
    connection.trouble = "down"
    connection.proven()
    assert max(connection._pause(1) for _ in range(50)) <= 0.05
    assert connection.trouble == ""


def wrong_password(peer: Peer) -> None:
    refuse(peer)


def no_such_vhost(peer: Peer) -> None:
    peer.greet()
    peer.tune()
    peer.close(530, "NOT_ALLOWED - vhost /echo not found")


def web_server(peer: Peer) -> None:
    peer.sock.recv(8)
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def older_protocol(peer: Peer) -> None:
    peer.sock.recv(8)
    peer.send(b"AMQP\x01\x01\x00\x08")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (wrong_password, "refuses user 'echo'"),
        (no_such_vhost, "can't use vhost '/echo'"),
        (web_server, "doesn't speak AMQP 0-9-1"),
        (older_protocol, "doesn't speak AMQP 0-9-1"),
    ],
)
def test_a_refusal_that_time_does_not_heal_is_told(
    run: Run, script: Callable[[Peer], None], words: str
) -> None:
    with broker(script) as server:
        running = run(server)
        [event] = running.listener.wait(1)
        assert event.startswith("refused: ")
        assert words in event
        running.close()


def close_at_once(peer: Peer) -> None:
    """As a proxy does whose broker isn't up."""


def close_after_the_header(peer: Peer) -> None:
    peer.sock.recv(8)


def close_while_logging_in(peer: Peer) -> None:
    peer.greet()


def close_while_tuning(peer: Peer) -> None:
    peer.greet()
    peer.tune()


def vhost_is_down(peer: Peer) -> None:
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
    run: Run, script: Callable[[Peer], None]
) -> None:
    with broker(script, script, serve) as server:
        running = run(server)
        assert running.listener.wait(1) == ["open"]
        assert server.count == 3
        running.close()


def test_a_peer_that_was_given_up_is_replaced(run: Run) -> None:
    with broker(serve) as server:
        running = run(server)
        running.listener.wait(1)
        running.on_loop(running.connection.drop)
        assert running.listener.wait(3) == ["open", "lost", "open"]
        running.close()


def test_a_broker_that_does_not_answer_the_farewell_is_left_after_two_seconds(run: Run) -> None:
    left = threading.Event()

    def script(peer: Peer) -> None:
        peer.open()
        left.wait(PATIENCE)

    with broker(script) as server:
        running = run(server)
        running.listener.wait(1)
        began = time.monotonic()
        running.close()
        assert 1.5 < time.monotonic() - began < 5
        left.set()


def test_it_can_be_closed_while_it_is_connecting(run: Run) -> None:
    with broker(lambda peer: peer.farewell()) as server:  # which greets nobody
        running = run(server)
        deadline = time.monotonic() + PATIENCE
        while not server.count:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        running.close()
        assert running.error is None
        assert running.listener.events == []


def test_it_can_be_closed_while_it_waits_to_try_again(run: Run) -> None:
    running = run(nobody())
    deadline = time.monotonic() + PATIENCE
    while not running.connection.trouble:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.close()
    assert running.error is None


def test_a_configuration_that_lacks_something_ends_it_before_it_connects() -> None:
    def parameters() -> list[pika.ConnectionParameters]:
        raise ConfigurationError("no user")

    with pytest.raises(ConfigurationError, match="no user"):
        Connection(parameters).run(Listener())


def test_a_second_connection_shares_the_loop_and_its_end_is_told_once(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.open()
        peer.close(541, "INTERNAL_ERROR - deprecated")

    with broker(serve, script, refuse, serve) as server:
        running = run(server)
        running.listener.wait(1)
        told: list[str] = []
        changed = threading.Semaphore(0)

        def on_gone(reason: str) -> None:
            told.append(reason)
            changed.release()

        for _ in range(2):
            running.on_loop(
                lambda: running.connection.sibling(lambda _: told.append("open"), on_gone)
            )
            assert changed.acquire(timeout=PATIENCE)
        assert told[:2] == ["open", "541 INTERNAL_ERROR - deprecated"]
        assert told[2].startswith("403 ACCESS_REFUSED")
        assert running.listener.events == ["open"], "the first connection is unharmed"
        running.close()


def test_many_connections_leave_no_descriptors_behind(run: Run) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to count open files")
    with broker(*[hang_up] * 5, serve) as server:
        before = descriptors()
        running = run(server)
        running.listener.wait(5)
        early = descriptors()
        running.listener.wait(11)
        assert descriptors() <= early + 2
        running.close()
    assert descriptors() <= before


def test_calls_made_while_the_loop_ends_are_no_error(run: Run) -> None:
    """A worker may publish in the very moment in which the loop closes."""
    failures: list[BaseException] = []
    for _ in range(30):
        running = run(nobody())
        stop = threading.Event()

        def call(running: Running = running, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                try:
                    running.connection.call(lambda: None)
                except BaseException as error:
                    failures.append(error)
                    return

        calling = threading.Thread(target=call)
        calling.start()
        running.close()
        stop.set()
        calling.join(PATIENCE)
    assert failures == []


def test_a_port_that_drops_everything_is_not_waited_for_for_ever(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        parameters = pika.ConnectionParameters(
            "127.0.0.1", silent.getsockname()[1], connection_attempts=1, stack_timeout=0.3
        )
        running = Running(Connection([parameters]))
        deadline = time.monotonic() + PATIENCE
        while not running.connection.trouble:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert "imeout" in running.connection.trouble
        running.close()
