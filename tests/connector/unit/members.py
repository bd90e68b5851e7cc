"""Members of a connection that write down what they hear, and the brokers that they hear it from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mq_connector.connection import Connection
from mq_connector.connection.link import Link

from .fake_broker import PATIENCE, BrokerEnd, FakeBroker, Gone


class Listener:
    """A member that does nothing but listen."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events: list[str] = []
        self.link: Link | None = None
        self.is_well = True
        self._changed = threading.Condition()

    def _hear(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def on_open(self, link: Link) -> None:
        self.link = link
        self._hear("open")

    def on_lost(self, error: BaseException) -> None:
        self._hear("lost")

    def on_refused(self, reason: str) -> None:
        self._hear(f"refused: {reason}")

    def join(self) -> Listener:
        self.connection.join(self)
        return self

    def quit(self) -> None:
        self.connection.quit(self, PATIENCE)

    def wait(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events) >= count, PATIENCE), self.events
            return self.events[:count]


def on_loop(connection: Connection, function: Callable[[], object]) -> None:
    """Run a function on the connection's loop, and wait until it has run."""
    ran = threading.Event()

    def run() -> None:
        function()
        ran.set()

    connection.call(run)
    assert ran.wait(PATIENCE)


def thread_of(connection: Connection) -> threading.Thread:
    """The thread that a connection runs on."""
    found: list[threading.Thread] = []
    on_loop(connection, lambda: found.append(threading.current_thread()))
    return found[0]


@contextmanager
def joined(*brokers: FakeBroker, count: int = 1) -> Iterator[list[Listener]]:
    """Members of one connection to brokers; they leave it afterwards, and its thread ends."""
    connection = Connection([each.parameters() for each in brokers])
    members = [Listener(connection).join() for _ in range(count)]
    loop = connection._loop
    try:
        yield members
    finally:
        for each in members:
            each.quit()
        if loop is not None:
            loop.thread.join(PATIENCE)
            assert not loop.thread.is_alive()


def serve(peer: BrokerEnd) -> None:
    peer.open()
    peer.farewell()


def serve_in_haste(peer: BrokerEnd) -> None:
    """The client may leave before it is connected."""
    with suppress(Gone, ConnectionResetError):
        serve(peer)


def hang_up(peer: BrokerEnd) -> None:
    peer.open()


def refuse(peer: BrokerEnd) -> None:
    peer.greet()
    peer.close(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")


def nobody() -> FakeBroker:
    """A broker that is down."""
    down = FakeBroker(serve)
    down.close()
    return down
