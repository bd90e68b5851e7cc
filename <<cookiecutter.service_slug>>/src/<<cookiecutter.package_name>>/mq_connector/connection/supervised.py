"""A supervised connection to one vhost, which all that talk to it share: one link at a time, one thread."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import ConnectionClosedByClient

from ..errors import printable
from ..fork import Process
from ..logs import Complaints, Logger
from .address import Address, Parameters
from .broker import describe, permanent_reason
from .link import Link

_log = Logger(__name__)

#: Seconds of the first pause after every host was tried, and of the longest: short enough for a
#: service to consume again within a second of the broker's coming back.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.8
#: The same for links that open, do nothing useful and are lost again: these loop.
_FIRST_REST, _LONGEST_REST = 0.025, 2.5
#: Seconds after which a link has proved useful by its age.
_AGE_OF_PROOF = 10.0
#: Seconds that a broker gets to answer a polite close.
_CLOSE_PATIENCE = 2.0
#: Seconds before a loop that failed is started again.
_RESTART_PAUSE = 1.0
#: Seconds between two looks at whether the thread still lives that is to do something.
_LOOK = 0.02


class Member(Protocol):
    """Who shares a connection; hears of its fate on its loop."""

    @property
    def is_well(self) -> bool:
        """Whether it does on the link what it has joined for."""

    def on_open(self, link: Link) -> None:
        """There is a link."""

    def on_lost(self, error: BaseException) -> None:
        """The link is gone, and another is sought."""

    def on_refused(self, reason: str) -> None:
        """The broker says no, and time doesn't heal that; the connection has given up."""


class Connection:
    """Keeps a link to a vhost for its members, on a thread of its own on which nothing else runs.

    It connects when the first member joins, and closes when the last has left.

    :param address: where to; pika's parameters stand for an address
    """

    def __init__(self, address: Address | Parameters) -> None:
        self.address = address if isinstance(address, Address) else Address(address)
        #: Why the last attempt to connect failed, and why the broker takes no messages, in words.
        self._trouble = self._blocked = ""
        #: Called on the loop, with the number of attempts in a row that have failed, after each.
        self.on_failure: Callable[[int], object] = lambda _: None
        # Guards who is a member and whether there is a thread: they decide about each other.
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self._thread: threading.Thread | None = None
        self._loop: IOLoop | None = None
        self._link: Link | None = None
        self._greeted: list[Member] = []
        self._calls: deque[Callable[[], object]] = deque()
        self._awake = threading.Lock()
        self._process = Process()
        #: Attempts in a row that failed, and links in a row that were lost before they were of use.
        self._failures = self._useless = 0
        self._opened_at = 0.0
        self._ever_used = False
        self._complaints = Complaints()

    # ---- from any thread

    @property
    def is_open(self) -> bool:
        """Whether AMQP is spoken right now."""
        link = self._link
        return link is not None and link.is_open

    @property
    def trouble(self) -> str:
        """Why there is no connection, or why the broker takes nothing on it, in words; empty while nothing
        is wrong."""
        return self._trouble or self._blocked

    @trouble.setter
    def trouble(self, text: str) -> None:
        """:param text: why a member can't do on it what it has joined for"""
        self._trouble = text

    @property
    def blocked(self) -> str:
        """Why the broker takes nothing on the connection that there is: an alarm, in words."""
        return self._blocked

    def join(self, member: Member) -> None:
        """Share the connection until `leave`.

        :raises ConfigurationError: something is missing in the configuration
        :raises NotConnected: in a process that was forked from the one with the thread
        """
        self.address.parameters  # noqa: B018 - a bad configuration is the caller's to hear of
        if self._thread is not None:
            self._process.check()  # before the lock, which a fork may have left locked
        with self._lock:
            self._members.append(member)
            if self._thread is None:
                self._process = Process()
                self._calls.clear()
                self._thread = threading.Thread(target=self._run, name="mq-io", daemon=True)
                self._thread.start()
        self.call(lambda: self._greet(member))

    def call(self, function: Callable[[], object]) -> None:
        """Run a function on the loop; many calls cost one wake-up. Dropped where there is no loop.

        :raises NotConnected: in a process that was forked from the one with the loop
        """
        self._process.check()
        if self._thread is None:
            return
        self._calls.append(function)
        loop = self._loop
        if loop is not None and self._awake.acquire(blocking=False):
            loop.add_callback_threadsafe(self._run_calls)

    @property
    def is_own_thread(self) -> bool:
        """Whether we are on the loop."""
        return threading.current_thread() is self._thread

    def quit(self, member: Member, timeout: float) -> None:
        """Have a member leave; returns when it has and, after the last one, the connection is closed.

        :param timeout: seconds for each of the two
        """
        left = threading.Event()

        def leave() -> None:
            self.leave(member)
            left.set()

        thread = self._thread
        if self.is_own_thread:
            leave()
        elif thread is not None:
            self.call(leave)
            deadline = time.monotonic() + timeout
            # A thread that is about to end, as after a refusal, may not look at the call any more.
            while not left.wait(_LOOK) and thread.is_alive() and time.monotonic() < deadline:
                pass
            if not self._members:
                thread.join(timeout)

    # ---- on the loop

    @property
    def link(self) -> Link | None:
        """What there is at the moment, open or not."""
        return self._link

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Run a function on the loop after a while; on the next loop, where this one has just failed."""
        if self._loop is None:
            self.call(lambda: self.later(seconds, function))
        else:
            self._loop.call_later(seconds, function)

    def leave(self, member: Member) -> None:
        """Share the connection no longer; twice does no harm."""
        with self._lock:
            if member in self._members:
                self._members.remove(member)
            left = bool(self._members)
        if member in self._greeted:
            self._greeted.remove(member)
        if not left:
            self._close()

    def used(self) -> None:
        """The link has done what it is for: the next failure begins with the shortest pause again.

        Merely opening is no proof, or a broker that closes it at once would be asked without a pause.
        """
        self._ever_used = True
        self._failures = self._useless = 0
        self._trouble = ""

    def accepted(self) -> None:
        """The broker has let a member do what it came for: a later refusal is taken for an accident."""
        self._ever_used = True
        self._trouble = ""

    def suspect(self, member: Member) -> None:
        """A member gets no answers: give up the link, unless others do well on it."""
        if not any(each.is_well for each in self._greeted if each is not member):
            self.drop()

    def drop(self) -> None:
        """Give up the link without a word and seek another; for a peer that doesn't answer."""
        if self._link is not None:
            self._link.drop()

    # ---- the thread

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception as error:  # members wait for what only a living loop brings
                _log.exception("the loop of a connection failed; starting it again")
                self._tell_lost(error)
                time.sleep(_RESTART_PAUSE)
                self._run_calls()  # also where no loop can be made: somebody may want to leave
            with self._lock:
                if not self._members:
                    self._thread = None
                    return

    def _turn(self) -> None:
        """Run one loop, until the last member has left or something fails."""
        loop = self._loop = IOLoop()
        try:
            loop.add_callback(self._run_calls)
            loop.add_callback(self._connect)
            loop.start()
        finally:
            self._loop = None
            if self._link is not None:
                self._link.shut()
            loop.close()

    def _run_calls(self) -> None:
        if self._awake.locked():
            self._awake.release()
        for _ in range(len(self._calls)):  # without a loop, some of them come back
            try:
                self._calls.popleft()()
            except Exception:
                _log.exception("a call on the loop of a connection failed")

    # ---- the course of a link

    def _connect(self) -> None:
        if not self._members:
            self._close()
            return
        assert self._loop is not None
        hosts = self.address.parameters
        self._link = Link(
            self._loop,
            self.call,
            hosts[self._failures % len(hosts)],
            self._on_open,
            self._on_failed,
            self._on_lost,
        )

    def _on_open(self, link: Link) -> None:
        self._opened_at = time.monotonic()
        link.amqp.add_on_connection_blocked_callback(self._on_blocked)
        link.amqp.add_on_connection_unblocked_callback(self._on_unblocked)
        with self._lock:
            members = list(self._members)
        self._tell(members, self._greet)
        if not members:
            self._close()

    def _tell(self, members: list[Member], how: Callable[[Member], object]) -> None:
        """Tell members something; what one of them makes of it costs the others nothing."""
        for member in members:
            try:
                how(member)
            except Exception:
                _log.exception("a member of a connection failed at what it was told")

    def _greet(self, member: Member) -> None:
        link = self._link
        if link is None or not link.is_open or member in self._greeted:
            return  # told with the others, once there is a link
        if member in self._members:
            self._greeted.append(member)
            member.on_open(link)

    def _on_failed(self, link: Link, error: BaseException) -> None:
        self._link = None
        hosts = self.address.parameters
        host = hosts[self._failures % len(hosts)]
        self._failures += 1
        reason = permanent_reason(
            error, host.virtual_host, getattr(host.credentials, "username", "")
        )
        self._trouble = f"no connection to {host.host}:{host.port}: {reason or describe(error)}"
        if not self._members:
            self._close()
            return
        if reason and not self._ever_used:
            self._give_up(reason)
            return
        if reason:
            self.address.ask_again()
        pause = self._pause(len(hosts))
        self._complain(self._trouble, f"trying again in {pause:.2f} s (attempt {self._failures})")
        self.on_failure(self._failures)
        self.later(pause, self._connect)

    def _give_up(self, reason: str) -> None:
        with self._lock:
            members, self._members = self._members, []
        self._tell(members, lambda member: member.on_refused(reason))
        if not self._members:
            self._close()
        else:
            self.later(_RESTART_PAUSE, self._connect)

    def _on_lost(self, link: Link, error: BaseException) -> None:
        if time.monotonic() - self._opened_at >= _AGE_OF_PROOF:
            self._failures = self._useless = 0
        ours = isinstance(error, ConnectionClosedByClient)
        if not ours:
            self._failures += 1
            self._useless += 1
        self._tell_lost(error)
        if not self._members:
            self._close()
            return
        if not ours:  # otherwise somebody has joined while we were closing
            self._complain(f"connection lost: {describe(error)}", "connecting again")
        self.later(self._pause(1), self._connect)

    def _tell_lost(self, error: BaseException) -> None:
        link, self._link = self._link, None
        self._blocked = ""
        if link is not None:
            link.end()
        greeted, self._greeted = self._greeted, []
        self._tell(greeted, lambda member: member.on_lost(error))

    def _close(self) -> None:
        """Close politely, and end the loop."""
        link = self._link
        if link is None or not (link.amqp.is_open or link.amqp.is_closing):
            # Not while it is opening: pika trips over its own assertion then.
            if self._loop is not None:
                self._loop.stop()
        elif not link.amqp.is_closing:
            link.end()
            link.amqp.close()
            self.later(_CLOSE_PATIENCE, link.drop)

    def _pause(self, hosts: int) -> float:
        """Seconds until the next attempt, drawn at random so that services don't come back in step."""
        if self._failures % hosts:
            return 0.0  # the next host may be up
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures // hosts, 10))
        rest = min(_LONGEST_REST, _FIRST_REST * 2.0 ** min(self._useless, 10))
        return max(pause, rest) * (0.5 + os.urandom(1)[0] / 512)

    def _complain(self, what: str, remedy: str) -> None:
        _log.log(self._complaints.level(what), "%s; %s", what, remedy)

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        """An alarm of the broker's (of memory or disk) is in force: it reads nothing more from who publishes
        (rabbitmq.com/docs/connection-blocked)."""
        reason = printable(str(frame.method.reason))
        self._blocked = f"the broker takes no messages: {reason} (resource alarm)"
        self._complain(self._blocked, "what is sent waits")

    def _on_unblocked(self, *_: Any) -> None:
        self._blocked = ""
        _log.warning("the broker takes messages again")


def connection_to(
    where: Connection | Address | pika.ConnectionParameters | Parameters,
) -> Connection:
    """The connection that is given, or one of its own to what is given."""
    if isinstance(where, Connection):
        return where
    if isinstance(where, pika.ConnectionParameters):
        return Connection([where])
    return Connection(where if isinstance(where, Address) else list(where))
