"""One connection to the broker, from the attempt to its loss: pika's connection, its stream, and what belongs to it."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.exceptions import NoFreeChannels

from ..errors import ChannelError, printable
from ..logs import Logger
from .broker import NOT_ALLOWED, PATIENCE, Broker, describe
from .scratch import Scratch
from .wire.frames import PropertiesEncoder
from .wire.transport import Services, Transport

_log = Logger(__name__)

#: Longest time in seconds that a publish or an ack waits for others to travel with.
LINGER = 0.005
#: Seconds that the broker gets to answer a polite close of a second connection.
_CLOSE_PATIENCE = 2.0
#: Channels that were given up, and that the broker hasn't closed, for which a link is given up as well: each keeps
#: its number. Of those that there may be a quarter, if that is more.
_MOST_GIVEN_UP = 32


class Lingering:
    """Has channels send what they have collected, after `LINGER`. One timer serves all channels of a link, as a
    timer for each would wake the loop for every few messages.

    :param call: runs a function on the link's loop, from any thread
    :param later: runs one there after some seconds, on the loop
    """

    def __init__(
        self,
        call: Callable[[Callable[[], object]], None],
        later: Callable[[float, Callable[[], object]], None],
    ) -> None:
        self._call = call
        self._later = later
        self._flushes: deque[Callable[[], bool]] = deque()
        self._is_set = False

    def add(self, flush: Callable[[], bool]) -> None:
        """Call ``flush`` on the loop after `LINGER`, and again as long as it returns True; from any thread."""
        self._flushes.append(flush)  # first, so that either we see no timer, or the timer sees it
        if not self._is_set:
            self._is_set = True
            self._call(self._set)

    def _set(self) -> None:
        self._later(LINGER, self._on_timer)

    def _on_timer(self) -> None:
        for _ in range(len(self._flushes)):
            flush = self._flushes.popleft()
            if flush():
                self._flushes.append(flush)
        self._is_set = False
        if self._flushes and not self._is_set:
            self._is_set = True
            self._set()


class Owed:
    """Answers that the broker owes: one timer for all looks whether they come in time.

    :param later: runs a function on the loop after some seconds
    :param is_excused: whether the broker may owe them for longer, as while an alarm holds it up
    """

    def __init__(
        self,
        later: Callable[[float, Callable[[], object]], None],
        is_excused: Callable[[], bool],
    ) -> None:
        self._later = later
        self._is_excused = is_excused
        #: When each is given up (`time.monotonic`), and what is called then.
        self._due: dict[object, tuple[float, Callable[[], object]]] = {}
        self._is_set = False

    def expect(self, on_none: Callable[[], object]) -> Callable[[], object]:
        """One more is owed from now on.

        :param on_none: called once, if it hasn't come within `PATIENCE`
        :returns: a function to be called when it comes; twice does no harm
        """
        mark = object()
        self._due[mark] = time.monotonic() + PATIENCE, on_none
        if not self._is_set:
            self._set(PATIENCE)
        return lambda: self._due.pop(mark, None)

    def _set(self, seconds: float) -> None:
        self._is_set = True
        self._later(seconds, self._check)

    def _check(self) -> None:
        self._is_set = False
        now, excused = time.monotonic(), self._is_excused()
        for mark, (due, on_none) in list(self._due.items()):
            if excused:
                self._due[mark] = now + PATIENCE, on_none
            elif due > now:
                break  # all have the same time, so the others came later
            elif self._due.pop(mark, None):
                on_none()
        if self._due and not self._is_set:
            first, _ = next(iter(self._due.values()))
            self._set(max(0.0, first - now))


class Link:
    """An attempt at a connection and, if it opens, the connection until its loss; used on its loop.

    :param loop: pika's loop
    :param call: runs a function on that loop, from any thread
    :param parameters: of the host that is tried
    :param on_open: called when the connection is open
    :param on_failed: called when the attempt has failed
    :param on_lost: called when an open connection is lost or closed
    :param complain: logs what is wrong, and what happens now
    """

    def __init__(
        self,
        loop: IOLoop,
        call: Callable[[Callable[[], object]], None],
        parameters: pika.ConnectionParameters,
        on_open: Callable[[Link], None],
        on_failed: Callable[[Link, BaseException], None],
        on_lost: Callable[[Link, BaseException], None],
        complain: Callable[[str, str], None],
    ) -> None:
        self.call = call
        self._loop = loop
        #: The streams of second connections.
        self._siblings: list[Services] = []
        self._is_shut = False
        #: Those that aren't known to be closed.
        self._channels: list[pika.channel.Channel] = []
        self._complain = complain
        #: In words, why the broker takes nothing on the link (a resource alarm); else empty.
        self.blocked = ""
        #: For channels that collect what they send.
        self.lingering = Lingering(call, self.later)
        #: What the broker is to answer in time.
        self.owed = Owed(self.later, lambda: bool(self.blocked))
        self._services = Services(loop)  # type: ignore[arg-type]  # generic in stubs only
        #: pika's connection.
        self.amqp = SelectConnection(
            copy.copy(parameters),
            on_open_callback=lambda _: on_open(self),
            on_open_error_callback=lambda _, error: on_failed(self, error),
            on_close_callback=lambda _, error: on_lost(self, self._explained(error)),
            custom_ioloop=self._services,
        )
        self.amqp.add_on_connection_blocked_callback(self._on_blocked)
        self.amqp.add_on_connection_unblocked_callback(self._on_unblocked)

    def _explained(self, loss: BaseException) -> BaseException:
        """The error of a loss, with its cause added: pika keeps only the text of what made the stream unreadable."""
        transport = self._services.transport
        if transport is not None and transport.unreadable is not None:
            loss.args += (transport.unreadable,)
        return loss

    @property
    def is_open(self) -> bool:
        """Whether the AMQP connection is open right now; for any thread."""
        return bool(self.amqp.is_open)

    @property
    def transport(self) -> Transport:
        """The stream; only once the link is open."""
        assert self._services.transport is not None
        return self._services.transport

    @cached_property
    def broker(self) -> Broker:
        """What the broker is, and what it can do; only once the link is open."""
        return Broker.of(self.amqp.server_properties)

    @cached_property
    def apart(self) -> Scratch:
        """For methods whose refusal may close the connection: on a second one, which all members share."""
        return Scratch(self, apart=True)

    @property
    def encoder(self) -> PropertiesEncoder:
        """A new encoder of properties, which refuses those that this broker wouldn't accept from this user."""
        credentials = self.amqp.params.credentials
        return PropertiesEncoder(self.amqp.params.frame_max, getattr(credentials, "username", None))

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Run a function on the loop after some seconds, whether the link is still open or not."""
        self._loop.call_later(seconds, function)

    def channel(self, on_open: Callable[[pika.channel.Channel], None]) -> None:
        """Open a channel.

        The broker asks nobody else before it answers, so where no answer comes, the link is given up.

        :raises ChannelError: 530, the connection has as many channels as the broker allows
        """

        def opened(channel: pika.channel.Channel) -> None:
            come()
            self._note(channel)
            on_open(channel)

        def missed() -> None:
            reason = f"no answer from the broker within {PATIENCE:g} s to channel.open"
            _drop(self._services, reason)

        come = self.owed.expect(missed)
        try:
            self.amqp.channel(on_open_callback=opened)
        except NoFreeChannels:
            come()
            raise ChannelError(
                NOT_ALLOWED,
                f"the broker allows {self.amqp.params.channel_max} channels on a connection, and all are "
                "in use: give some consumers another connection, or raise channel_max",
            ) from None

    def _note(self, channel: pika.channel.Channel) -> None:
        self._channels = [each for each in self._channels if not each.is_closed]
        self._channels.append(channel)
        given_up = sum(each.is_closing for each in self._channels)
        if given_up > max(_MOST_GIVEN_UP, (self.amqp.params.channel_max or 0) // 4):
            _drop(self._services, f"the broker owes answers on {given_up} channels")

    def sibling(
        self, on_open: Callable[[SelectConnection], None], on_gone: Callable[[str], None]
    ) -> Callable[[], None]:
        """A second connection to the same broker on the same loop, for methods that may cost a connection.

        :param on_gone: called once, with the reason, whether it was open before or not
        :returns: a function that gives it up without closing it politely
        """
        services = Services(self._loop)  # type: ignore[arg-type]  # generic in stubs only
        self._siblings.append(services)

        def gone(_: object, error: BaseException) -> None:
            self._siblings.remove(services)
            on_gone(describe(error))

        SelectConnection(
            copy.copy(self.amqp.params),
            on_open_callback=on_open,
            on_open_error_callback=gone,
            on_close_callback=gone,
            custom_ioloop=services,
        )
        return lambda: _drop(services)

    def drop(self) -> None:
        """Give up this link without closing it politely; for a peer that doesn't answer."""
        _drop(self._services)

    def end(self) -> bool:
        """The link is lost or about to be closed: end what waits on it.

        :returns: whether a second connection is still closing
        """
        if "apart" in vars(self):
            self.apart.abandon()
            if self._siblings and not self._is_shut:
                self.later(_CLOSE_PATIENCE, self._drop_siblings)
        return bool(self._siblings)

    def shut(self) -> None:
        """Close the sockets and nothing else, when the loop has ended already."""
        self._is_shut = True
        for services in (self._services, *self._siblings):
            if services.transport is not None:
                services.transport.shut()

    def _on_blocked(self, _amqp: object, frame: Any) -> None:
        """The broker has an alarm (of memory or disk): it reads nothing more from connections that publish
        (rabbitmq.com/docs/connection-blocked)."""
        reason = printable(str(frame.method.reason))
        self.blocked = f"the broker takes no messages: {reason} (resource alarm)"
        self._complain(self.blocked, "what is sent waits")

    def _on_unblocked(self, *_: object) -> None:
        self.blocked = ""
        _log.warning("the broker takes messages again")

    def _drop_siblings(self) -> None:
        """A connection on which the broker owes an answer wouldn't even answer a polite close."""
        for services in self._siblings:
            _drop(services)


def _drop(services: Services, reason: str = "given up") -> None:
    if services.transport is not None:
        services.transport.fail(ConnectionAbortedError(reason))
