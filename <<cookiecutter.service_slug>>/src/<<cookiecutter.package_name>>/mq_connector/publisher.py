"""Publishing with confirms: a message that the broker hasn't taken is reported, never dropped in silence."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic

from .channels.kept import KeptChannel
from .channels.publishing import Publishing
from .channels.unconfirmed import Unconfirmed
from .connection import Connection
from .connection.broker import describe, is_our_doing
from .connection.link import Link
from .connection.wire import frames
from .errors import ChannelError, MQError, NotConnected, PublishError, StartError, Unroutable
from .logs import Complaints, Logger

_log = Logger(__name__)

#: Messages under way to the broker at the same time; the next `Publisher.publish` waits for one.
WINDOW = 1000
#: Seconds before a channel is asked for again where there were too many.
_CHANNEL_PAUSE = 5.0


class Publisher:
    """Publishes on a channel of its own, from any thread, each message with a confirm of its own.

    Joins its connection at the first message. Messages that weren't confirmed when the connection was lost are
    sent again on the next one, so a message may arrive twice, but none is lost.

    :param connection: where to publish; may be shared
    :param window: most messages under way or held at the same time; `publish` waits while there are so many
    :param hold: whether messages wait while there is no connection; without, `publish` raises `NotConnected` then
    """

    def __init__(self, connection: Connection, window: int = WINDOW, hold: bool = True) -> None:
        self.connection = connection
        self._window = window
        self._hold = hold
        self._kept = KeptChannel(connection, self)
        self._encode = frames.PropertiesEncoder()
        # Guards all below: which messages wait, which are under way, and whether more may come.
        self._room = threading.Condition(threading.Lock())
        self._waiting: deque[Publishing] = deque()
        self._unconfirmed: Unconfirmed[Publishing] = Unconfirmed()
        #: How many of those waiting, from the first on, are sent one at a time, to find out which one is refused.
        self._suspects = 0
        #: Link and channel that messages are sent on, while there are any.
        self._opened: tuple[Link, pika.channel.Channel] | None = None
        self._lost = False
        self._closed = False
        self._refusal: MQError | None = None
        self._complaints = Complaints()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: pika.BasicProperties | None = None,
        mandatory: bool = True,
        timeout: float = 30.0,
    ) -> Future[None]:
        """Publish one message.

        :param mandatory: whether it is an error that no queue takes the message
        :param timeout: seconds to wait for room in the window
        :returns: a future that is done when the broker has confirmed the message (a durable queue: on disk). Its
            exception is `Unroutable` if no queue takes the message, another `PublishError` if it was refused
        :raises NotConnected: there is no room in time; there is no connection and `hold` is off; the publisher is
            closed, or was made by the process that this one was forked from
        :raises StartError: the broker refuses us for good
        :raises ConfigurationError: the configuration lacks something
        """
        self._kept.check()
        message = Publishing(exchange, routing_key, body, mandatory)
        try:
            # Now, because the caller may use both again for another message.
            message.encoded = self._encode(properties)
            if type(body) is not bytes:
                message.body = frames.octets(body)
        except Exception as error:  # pika's encoders raise whatever a wrong type leads to
            message.confirmed.set_exception(PublishError(f"{type(error).__name__}: {error}"))
            return message.confirmed
        with self._room:
            if not self._closed:
                self._kept.join()
            reason = self.connection.last_error or ("the connection was lost" if self._lost else "")
            if not self._hold and self._opened is None and reason:
                raise NotConnected(reason)
            if (
                self.connection.is_own_thread
            ):  # a future's callback runs there, and it alone makes room
                timeout = 0.0
            if not self._room.wait_for(self._has_room, timeout):
                raise NotConnected(
                    f"{self._window} messages wait for their confirm since {timeout:g} s"
                    f"{': ' + self.connection.last_error if self.connection.last_error else ''}"
                )
            if self._refusal is not None:
                raise self._refusal.with_traceback(None)  # else it grows with each that is raised
            if self._closed:
                raise NotConnected("the publisher is closed")
            self._waiting.append(message)
        self.connection.call(self._send)
        return message.confirmed

    @property
    def is_half_empty(self) -> bool:
        """Whether there is room for more messages, even if several threads publish at the same time."""
        return len(self._waiting) + len(self._unconfirmed) < self._window // 2

    def close(self, timeout: float = 10.0) -> None:
        """Wait for the confirms, then leave the connection, which is closed if nobody else uses it.

        :param timeout: seconds, after which the messages without a confirm fail
        """
        if self._kept.is_forked:
            return  # the connection is the parent process's
        with self._room:
            self._closed = True
            self._room.notify_all()
            joined = self._kept.is_joined
            if joined:
                self._room.wait_for(self._is_idle, timeout)
        if joined:
            self.connection.call(self._send_no_more)
            self._kept.quit(timeout)
        self._fail_all(NotConnected("closed before the broker had confirmed the message"))

    @property
    def is_full(self) -> bool:
        """Whether `publish` would wait."""
        with self._room:
            return not self._has_room()

    def _has_room(self) -> bool:
        under_way = len(self._waiting) + len(self._unconfirmed)
        return self._closed or self._refusal is not None or under_way < self._window

    def _is_idle(self) -> bool:
        return self._refusal is not None or not (self._waiting or self._unconfirmed)

    # ---- on the loop: mq_connector.channels.kept.Keeper

    @property
    def is_well(self) -> bool:
        """Whether messages can leave."""
        return self._opened is not None

    def on_channel(self, link: Link, channel: pika.channel.Channel) -> None:
        """A channel was opened: switch on confirms."""
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, lambda _: self._on_ready(link, channel))
        self._kept.expect()

    def on_none_left(self, error: ChannelError) -> None:
        """There is no channel for us."""
        level = self._complaints.level(str(error))
        _log.log(level, "can't publish: %s; trying again", error)
        self._kept.open_again(_CHANNEL_PAUSE)

    def on_closed(self, reason: ChannelClosedByBroker) -> None:
        """What the broker refuses costs the channel: no such exchange (404), no permission (403), or
        something about the message itself, such as its size or its expiration (406)."""
        # At once, unless that is what it was closed for before anything was sent on it.
        pause = 0.0 if self.is_well else _CHANNEL_PAUSE
        with self._room:
            messages = list(self._unconfirmed)
            failed = [each for each in messages if each.is_named_in(reason.reply_text)]
            if not failed and len(messages) == 1:
                failed = messages
            # Of many, the broker doesn't say which: they go again one by one, until it is alone.
            self._suspects = max(self._suspects - 1, 0) if failed else len(messages)
            self._take_back([each for each in messages if each not in failed])
        for message in failed:
            message.confirmed.set_exception(
                PublishError(f"{reason.reply_code} {reason.reply_text}")
            )
        self._kept.open_again(pause)

    def on_lost(self, error: BaseException) -> None:
        """The link is gone: what wasn't confirmed goes first on the next one.

        What the broker answers by closing the connection would cost the next one as well: it goes alone
        then, and if it was alone already, it is refused.
        """
        with self._room:
            self._lost = True
            messages = list(self._unconfirmed)
            refused = messages if len(messages) == 1 and is_our_doing(error) else []
            if refused:
                self._suspects = max(self._suspects - 1, 0)
            elif is_our_doing(error):
                self._suspects = len(messages)
            self._take_back([each for each in messages if each not in refused])
        for message in refused:
            message.confirmed.set_exception(PublishError(describe(error)))

    def on_refused(self, error: StartError) -> None:
        """The broker refuses us for good: fail all messages."""
        self._refusal = error
        self._fail_all(error)

    def _send_no_more(self) -> None:
        with self._room:
            self._opened = None

    def _on_ready(self, link: Link, channel: pika.channel.Channel) -> None:
        self._kept.has_all()
        self.connection.used()
        with self._room:
            self._opened = (link, channel)
            self._lost = False
        self._send()

    def _take_back(self, messages: list[Publishing]) -> None:
        """The channel is gone: what was under way waits again, ahead of what came later."""
        for message in messages:
            message.returned = None
        self._waiting.extendleft(reversed(messages))
        self._opened, self._unconfirmed = None, Unconfirmed()
        self._room.notify_all()

    def _send(self) -> None:
        """Send all that waits, in one go."""
        burst = []
        failed: list[tuple[Publishing, Exception]] = []
        with self._room:
            if self._opened is None or not self._opened[1].is_open:
                return
            link, channel = self._opened
            frame_max = link.amqp.params.frame_max
            while self._waiting and not (self._suspects and self._unconfirmed):
                message = self._waiting.popleft()
                try:
                    # Of each connection, which may allow less than the one before.
                    frames.check_size(len(message.encoded), frame_max)
                    data = frames.publish(
                        channel.channel_number,
                        message.exchange,
                        message.routing_key,
                        message.encoded,
                        message.body,
                        message.mandatory,
                        frame_max,
                    )
                except Exception as error:  # names or headers too long, a body that isn't bytes
                    failed.append((message, error))
                    self._room.notify_all()
                    continue
                self._unconfirmed.add(message)
                burst.append(data)
        link.transport.send(burst)
        for message, reason in failed:
            message.confirmed.set_exception(PublishError(f"{type(reason).__name__}: {reason}"))

    def _on_return(
        self, _channel: Any, method: Basic.Return, _properties: Any, body: bytes
    ) -> None:
        """Unroutable: the broker says so before it confirms the message."""
        key = (method.exchange or "", method.routing_key or "", body)
        with self._room:
            for message in self._unconfirmed:
                if message.returned is None and message.key == key:
                    message.returned = f"{method.reply_code} {method.reply_text}"
                    break

    def _on_confirm(self, frame: Any) -> None:
        """``basic.ack`` or ``basic.nack`` for one message or all up to it."""
        with self._room:
            messages, nacked = self._unconfirmed.take(frame)
            careful, self._suspects = self._suspects, max(self._suspects - len(messages), 0)
            self._room.notify_all()
        if careful:
            self._send()
        for message in messages:
            if message.returned is not None:
                where = f"exchange {message.exchange!r}, routing key {message.routing_key!r}"
                message.confirmed.set_exception(Unroutable(f"{message.returned}: {where}"))
            elif nacked:
                message.confirmed.set_exception(
                    PublishError("the broker refused the message (basic.nack); is its queue full?")
                )
            else:
                message.confirmed.set_result(None)

    def _fail_all(self, error: MQError) -> None:
        with self._room:
            messages = [*self._unconfirmed, *self._waiting]
            self._unconfirmed = Unconfirmed()
            self._waiting.clear()
            self._room.notify_all()
        for message in messages:
            message.confirmed.set_exception(error)
