"""A supervised connection to one vhost, shared by its members: one link at a time, on one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pika
from pika.exceptions import ConnectionClosedByClient

from ..fork import Process
from ..logs import Logger
from .address import Address, Parameters
from .attempts import LinkAttempts
from .broker import CONNECTION_FORCED, describe, permanent_reason
from .link import Link
from .loop import RESTART_PAUSE, Loop
from .members import Member, Members, tell

_log = Logger(__name__)

#: Seconds that a broker gets to answer a polite close.
_CLOSE_PATIENCE = 2.0
#: Seconds between two checks that the thread is alive for whose answer somebody waits.
_LOOK = 0.02


class Connection:
    """Keeps a link to a vhost for its members, on a thread of its own on which nothing else runs.

    It connects when the first member joins, and closes when the last has left.

    :param address: hosts, vhost and credentials; pika's parameters may be given instead
    """

    def __init__(self, address: Address | Parameters) -> None:
        self.address = address if isinstance(address, Address) else Address(address)
        #: The present link, open or not; for the loop.
        self.link: Link | None = None
        #: What there was before, where a second connection of its is still closing.
        self._lost_link: Link | None = None
        #: Why the last attempt to connect failed, in words.
        self._last_error = ""
        #: Called on the loop, with the number of attempts in a row that have failed, after each.
        self.on_failure: Callable[[int], object] = lambda _: None
        # Guards who is a member and whether there is a thread: they decide about each other.
        self._lock = threading.Lock()
        self._members = Members()
        #: From when the first member joins until the last one leaves.
        self._loop: Loop | None = None
        #: Counts the attempts to connect.
        self.attempts = LinkAttempts()
        self._process = Process()

    # ---- from any thread

    @property
    def is_open(self) -> bool:
        """Whether there is an open AMQP connection right now."""
        link = self.link
        return link is not None and link.is_open

    @property
    def last_error(self) -> str:
        """Why there is no connection, or why the broker takes nothing on it, in words; empty while nothing
        is wrong."""
        return self._last_error or self.blocked

    @last_error.setter
    def last_error(self, text: str) -> None:
        """:param text: why a member can't do on it what it has joined for"""
        self._last_error = text

    @property
    def blocked(self) -> str:
        """In words, why the broker takes nothing on the open connection (a resource alarm); else empty."""
        link = self.link
        return "" if link is None else link.blocked

    def join(self, member: Member) -> None:
        """Share the connection until `leave`.

        :raises ConfigurationError: something is missing in the configuration
        :raises NotConnected: in a process that was forked from the one with the connection's thread
        """
        self.address.parameters  # noqa: B018 - a bad configuration is the caller's to hear of
        if self._loop is not None:
            self._process.check()  # before the lock, which a fork may have left locked
        with self._lock:
            self._members.add(member)
            if self._loop is None:
                self._process = Process()
                self._loop = Loop(self._connect, self._tell_lost, self._shut, self._is_done)
                self._loop.thread.start()
        self.call(lambda: self._members.greet(self.link, member))

    def call(self, function: Callable[[], object]) -> None:
        """Run a function on the loop; many calls cost one wake-up. Without a loop the call is dropped.

        :raises NotConnected: in a process that was forked from the one with the loop
        """
        self._process.check()
        loop = self._loop
        if loop is not None:
            loop.call(function)

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller is on the loop's thread."""
        loop = self._loop
        return loop is not None and threading.current_thread() is loop.thread

    def quit(self, member: Member, timeout: float) -> None:
        """Have a member leave; returns when it has and, after the last one, the connection is closed.

        :param timeout: seconds for each of the two
        """
        left = threading.Event()

        def leave() -> None:
            self.leave(member)
            left.set()

        loop = self._loop
        if self.is_own_thread:
            leave()
        elif loop is not None:
            thread = loop.thread
            self.call(leave)
            deadline = time.monotonic() + timeout
            # A thread that is about to end, as after a refusal, may not run the call any more.
            while not left.wait(_LOOK) and thread.is_alive() and time.monotonic() < deadline:
                pass
            if not self._members:
                thread.join(timeout)

    # ---- on the loop

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Run a function on the loop after some seconds; on the next loop, if this one has just failed."""
        loop = self._loop
        if loop is not None:
            loop.later(seconds, function)

    def leave(self, member: Member) -> None:
        """Share the connection no longer; calling it twice does no harm."""
        with self._lock:
            self._members.remove(member)
            left = bool(self._members)
        self._members.forget(member)
        if not left:
            self._close()

    def used(self) -> None:
        """The link has proved useful: the next failure begins with the shortest pause again.

        That it has opened is no proof, or a broker that closes it at once would be tried again without a pause.
        """
        self.attempts.succeeded()
        self._last_error = ""

    def accepted(self) -> None:
        """The broker has let a member do what it joined for: a later refusal is taken for an accident, and retried."""
        self.attempts.ever_succeeded = True
        self._last_error = ""

    def suspect(self, member: Member) -> None:
        """A member gets no answers: give up the link, unless others do well on it."""
        if not self._members.are_well_without(member):
            self.drop()

    def drop(self) -> None:
        """Give up the link without closing it politely, and connect again; for a peer that doesn't answer."""
        if self.link is not None:
            self.link.drop()

    # ---- what the thread does

    def _connect(self) -> None:
        """A loop has begun, or another attempt is due."""
        if not self._members:
            self._close()
            return
        assert self._loop is not None and self._loop.io is not None
        hosts = self.address.parameters
        self.link = Link(
            self._loop.io,
            self.call,
            hosts[self.attempts.turn % len(hosts)],
            self._on_open,
            self._on_failed,
            self._on_lost,
            self.attempts.complain,
        )

    def _shut(self) -> None:
        for link in (self.link, self._lost_link):
            if link is not None:
                link.shut()
        self._lost_link = None

    def _is_done(self) -> bool:
        """Whether the last member has left, and with it the thread may go."""
        with self._lock:
            if self._members:
                return False
            self._loop = None
            return True

    # ---- the course of a link

    def _on_open(self, link: Link) -> None:
        self.attempts.opened()
        self._members.greet_all(link)
        if not self._members:
            self._close()

    def _on_failed(self, link: Link, error: BaseException) -> None:
        self.link = None
        attempts, hosts = self.attempts, self.address.parameters
        host = hosts[attempts.turn % len(hosts)]
        attempts.missed()
        username = getattr(host.credentials, "username", "")
        where = f"{host.host}:{host.port}"
        reason = permanent_reason(error, host.virtual_host, username, where)
        self._last_error = f"no connection to {where}: {reason or describe(error)}"
        if not self._members:
            self._close()
            return
        if reason and not attempts.ever_succeeded:
            refusal = reason
            with self._lock:
                members = self._members.take()
            tell(members, lambda member: member.on_refused(refusal))
            pause = RESTART_PAUSE  # for members that have joined meanwhile
        else:
            if reason:
                self.address.ask_again()
            pause = attempts.pause_with(len(hosts))
            remedy = f"trying again in {pause:.2f} s (attempt {attempts.failed})"
            attempts.complain(self._last_error, remedy)
            self.on_failure(attempts.failed)
        if self._members:
            self.later(pause, self._connect)
        else:
            self._close()

    def _on_lost(self, link: Link, error: BaseException) -> None:
        ours = isinstance(error, ConnectionClosedByClient)
        self.attempts.lost(by_accident=not ours)
        self._tell_lost(error)
        if not self._members:
            self._close()
            return
        if not ours:  # otherwise a member has joined while we were closing
            self.attempts.complain(f"connection lost: {describe(error)}", "connecting again")
            if getattr(error, "reply_code", 0) == CONNECTION_FORCED:
                self.address.ask_again()  # by an operator, as where our user was removed for another
        self.later(self.attempts.pause_with(1), self._connect)

    def _tell_lost(self, error: BaseException) -> None:
        link, self.link = self.link, None
        if link is not None:
            self._lost_link = link if link.end() else None
        self._members.lost(error)

    def _close(self) -> None:
        """Close politely, and end the loop."""
        link = self.link
        if link is None or not (link.amqp.is_open or link.amqp.is_closing):
            # Not while it is opening: pika trips over its own assertion then.
            if self._loop is not None:
                self._loop.stop()
        elif not link.amqp.is_closing:
            link.end()
            link.amqp.close()
            self.later(_CLOSE_PATIENCE, link.drop)


def is_responsive(connection: Connection, timeout: float) -> bool:
    """Whether the loop, if there is one, runs what it is given within ``timeout`` seconds."""
    loop, turn = connection._loop, threading.Event()
    if loop is None:
        return True
    connection.call(turn.set)
    return turn.wait(timeout) or connection._loop is not loop


def connection_to(
    where: Connection | Address | pika.ConnectionParameters | Parameters,
) -> Connection:
    """The connection that is given, or a new one to the address or with the parameters that are given."""
    if isinstance(where, Connection):
        return where
    if isinstance(where, pika.ConnectionParameters):
        return Connection([where])
    return Connection(where if isinstance(where, Address) else list(where))
