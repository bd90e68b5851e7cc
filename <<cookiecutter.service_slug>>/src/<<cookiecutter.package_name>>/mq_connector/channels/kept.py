"""A channel on a shared connection that is opened again whenever it is gone, until its keeper leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pika
from pika.exceptions import ChannelClosedByBroker

from ..connection import Connection
from ..connection.broker import PATIENCE, UNANSWERED
from ..connection.link import Link
from ..errors import ChannelError, StartError
from ..fork import Process


class Keeper(Protocol):
    """The client or publisher whose channel it is; its methods are called on the connection's loop."""

    @property
    def is_well(self) -> bool:
        """Whether it can do on the channel what it needs it for."""

    def on_channel(self, link: Link, channel: pika.channel.Channel) -> None:
        """A channel was opened, the first one or another."""

    def on_closed(self, reason: ChannelClosedByBroker) -> None:
        """The broker has closed the channel; `KeptChannel.open_again` gets another one."""

    def on_none_left(self, error: ChannelError) -> None:
        """The connection has no channel left for us, or the broker owes an answer on the one that there was
        (`mq_connector.connection.broker.is_stuck`); `KeptChannel.open_again` asks once more."""

    def on_lost(self, error: BaseException) -> None:
        """The channel is gone with its link; the next link brings another one."""

    def on_refused(self, error: StartError) -> None:
        """The broker refuses us for good; there will be no channel."""


class KeptChannel:
    """Keeps one channel open for its keeper, from `join` to `quit`.

    :param connection: may be shared with others
    """

    def __init__(self, connection: Connection, keeper: Keeper) -> None:
        self.connection = connection
        self._keeper = keeper
        self._link: Link | None = None
        #: Open, or closed and not replaced yet.
        self._channel: pika.channel.Channel | None = None
        self._is_opening = False
        #: To be called when the broker has answered what the keeper has asked.
        self._answered: Callable[[], object] = lambda: None
        self._process: Process | None = None

    # ---- from any thread

    @property
    def is_joined(self) -> bool:
        """Whether `join` has passed once."""
        return self._process is not None

    @property
    def is_forked(self) -> bool:
        """Whether the connection is that of a process which this one was forked from."""
        return self._process is not None and self._process.forked

    def check(self) -> None:
        """For use before taking a lock, which a fork may have left locked.

        :raises NotConnected: as `is_forked`
        """
        if self._process is not None:
            self._process.check()

    def join(self) -> None:
        """Share the connection from now on; the caller sees to it that nobody else calls this meanwhile.

        :raises ConfigurationError: something is missing in the configuration
        :raises NotConnected: the connection is that of a process which this one was forked from
        """
        if self._process is None:
            self.connection.join(self)
            self._process = Process()

    def quit(self, timeout: float) -> None:
        """Give up the channel and leave the connection, as `Connection.quit`.

        :param timeout: seconds to wait for the connection's end
        """
        self.connection.call(self._give_up)
        self.connection.quit(self, timeout)

    # ---- on the loop

    def leave(self) -> None:
        """Leave the connection; twice does no harm."""
        self.connection.leave(self)

    def open_again(self, pause: float = 0.0) -> None:
        """Give up the channel, if there is one, and open another.

        :param pause: seconds before that
        """
        self.close()
        link = self._link
        if link is None:
            return  # the next link brings one
        if pause:
            link.later(pause, lambda: self._open(link))
        else:
            self._open(link)

    def expect(self) -> None:
        """The keeper has asked for all that it needs on the channel: the broker has to answer in time."""
        link, channel = self._link, self._channel
        if link is not None and channel is not None:
            self._answered = link.owed.expect(lambda: self._on_no_answer(channel))

    def has_all(self) -> None:
        """The broker has answered that."""
        self._answered()

    def _on_no_answer(self, channel: pika.channel.Channel) -> None:
        if channel is not self._channel or not channel.is_open:
            return
        self.close()
        self._keeper.on_none_left(
            ChannelError(UNANSWERED, f"no answer from the broker within {PATIENCE:g} s")
        )
        self.connection.suspect(self)

    def _give_up(self) -> None:
        """On a connection that others share it would stay open, and with it what it consumes."""
        self.close()
        self._link = None

    def close(self) -> None:
        """Give up the channel; the keeper hears no more of it."""
        self._answered()
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()

    def _open(self, link: Link) -> None:
        if link is not self._link or self._channel is not None or self._is_opening:
            return
        try:
            link.channel(self._on_channel)
        except ChannelError as error:
            self._keeper.on_none_left(error)
        else:
            self._is_opening = True

    def _on_channel(self, channel: pika.channel.Channel) -> None:
        link = self._link
        if link is None:  # it was given up while it was opening
            channel.close()
            return
        self._is_opening = False
        self._channel = channel
        channel.add_on_close_callback(self._on_closed)
        self._keeper.on_channel(link, channel)

    def _on_closed(self, channel: pika.channel.Channel, reason: BaseException) -> None:
        # A channel that goes with its link is told of by `on_lost`, and what we close we know of.
        if channel is self._channel and isinstance(reason, ChannelClosedByBroker):
            self._keeper.on_closed(reason)

    # ---- on the loop: mq_connector.connection.supervised.Member

    @property
    def is_well(self) -> bool:
        """Whether the keeper is."""
        return self._keeper.is_well

    def on_open(self, link: Link) -> None:
        """There is a link."""
        self._link = link
        self._open(link)

    def on_lost(self, error: BaseException) -> None:
        """The link is gone."""
        self._link = self._channel = None
        self._is_opening = False
        self._keeper.on_lost(error)

    def on_refused(self, reason: str) -> None:
        """The broker says no."""
        self._keeper.on_refused(StartError(reason))
