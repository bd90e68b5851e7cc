"""Publishing with confirms: what the broker hasn't taken is reported, never dropped in silence."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

import pika
from pika.spec import Basic

from .connection import Connection
from .connection.broker import describe, is_our_doing
from .connection.link import Link
from .connection.wire import frames
from .errors import ChannelError, MQError, NotConnected, PublishError, StartError, Unroutable
from .fork import Process
from .logs import Complaints, Logger

_log = Logger(__name__)

#: Messages under way to the broker at the same time; the next `Publisher.publish` waits for one.
WINDOW = 1000
#: Seconds before a channel is asked for again where there were too many.
_CHANNEL_PAUSE = 5.0

_Key = tuple[str, str, bytes]


class _Message:
    """A message until its confirm."""

    __slots__ = (
        "body",
        "confirmed",
        "encoded",
        "exchange",
        "mandatory",
        "returned",
        "routing_key",
    )

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        mandatory: bool,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        self.encoded = b""
        self.mandatory = mandatory
        self.confirmed: Future[None] = Future()
        # What may be under way can't be taken back: this makes `Future.cancel` say so.
        self.confirmed.set_running_or_notify_cancel()
        self.returned: str | None = None

    @property
    def key(self) -> _Key:
        return self.exchange, self.routing_key, self.body

    def is_named_in(self, refusal: str) -> bool:
        """Whether the broker's words mean everything that goes to this message's exchange."""
        exchange = f"exchange '{self.exchange or 'amq.default'}' in vhost"
        return any(f"{words} {exchange}" in refusal for words in ("no", "access to", "internal"))


class Publisher:
    """Publishes on a channel of its own, from any thread, each message with a confirm of its own.

    Joins its connection when the first message comes. What wasn't confirmed when the connection was lost
    is sent again on the next one, so that a message may arrive twice but never not at all.

    :param connection: where to publish; may be shared
    :param window: messages under way or held at the same time; with more, `publish` waits
    :param hold: whether messages wait for a connection that is down, or are refused
    """

    def __init__(self, connection: Connection, window: int = WINDOW, hold: bool = True) -> None:
        self.connection = connection
        self._window = window
        self._hold = hold
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._waiting: deque[_Message] = deque()
        self._unconfirmed: dict[int, _Message] = {}
        self._last_tag = 0
        #: Messages at the head of those waiting that go one at a time, to find which one is refused.
        self._suspects = 0
        self._channel: pika.channel.Channel | None = None
        self._lost = False
        self._closed = False
        self._process: Process | None = None
        self._encode = frames.PropertiesEncoder()
        self._refusal: MQError | None = None
        self._link: Link | None = None
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

        :param mandatory: whether a message that no queue takes is a failure
        :param timeout: seconds to wait for room in the window
        :returns: done when the broker has taken the message (a durable queue: on disk). Its exception
            is `Unroutable` where no queue takes the message, another `PublishError` where it was refused
        :raises NotConnected: there is no room in time, or no connection and nothing is held, or the
            publisher is closed, or was opened by the process that this one was forked from
        :raises StartError: the broker refuses us for good
        :raises ConfigurationError: the configuration lacks something
        """
        if self._process is not None:
            self._process.check()  # before the lock, which a fork may have left locked
        message = _Message(exchange, routing_key, body, mandatory)
        try:
            # Now, because the caller may use the properties again for another message.
            message.encoded = self._encode(properties)
        except Exception as error:  # pika's encoders raise whatever a wrong type leads to
            message.confirmed.set_exception(PublishError(f"{type(error).__name__}: {error}"))
            return message.confirmed
        with self._room:
            self._start()
            trouble = self.connection.trouble or ("the connection was lost" if self._lost else "")
            if not self._hold and self._channel is None and trouble:
                raise NotConnected(trouble)
            if (
                self.connection.is_own_thread
            ):  # a future's callback runs there, and it alone makes room
                timeout = 0.0
            if not self._room.wait_for(self._has_room, timeout):
                raise NotConnected(
                    f"{self._window} messages wait for their confirm since {timeout:g} s"
                    f"{': ' + self.connection.trouble if self.connection.trouble else ''}"
                )
            if self._refusal is not None:
                raise self._refusal
            if self._closed:
                raise NotConnected("the publisher is closed")
            self._waiting.append(message)
        self.connection.call(self._send)
        return message.confirmed

    def close(self, timeout: float = 10.0) -> None:
        """Wait for the confirms, then close the connection.

        :param timeout: seconds, after which the messages without a confirm fail
        """
        try:
            if self._process is not None:
                self._process.check()
        except NotConnected:
            return  # the connection is the parent process's
        with self._room:
            self._closed = True
            self._room.notify_all()
            joined = self._process is not None
            if joined:
                self._room.wait_for(self._is_idle, timeout)
        if joined:
            self.connection.call(self._close_channel)
            self.connection.quit(self, timeout)
        self._fail_all(NotConnected("closed before the broker had confirmed the message"))

    def _has_room(self) -> bool:
        under_way = len(self._waiting) + len(self._unconfirmed)
        return self._closed or self._refusal is not None or under_way < self._window

    def _is_idle(self) -> bool:
        return self._refusal is not None or not (self._waiting or self._unconfirmed)

    def _start(self) -> None:
        if self._process is None and not self._closed:
            self.connection.join(self)
            self._process = Process()

    # ---- on the loop: mq_connector.connection.supervised.Member

    @property
    def is_well(self) -> bool:
        """Whether messages can leave."""
        return self._channel is not None

    def on_open(self, link: Link) -> None:
        """There is a link."""
        self._link = link
        self._open_channel(link)

    def on_lost(self, error: BaseException) -> None:
        """The link is gone: what wasn't confirmed goes first on the next one.

        What the broker answers by closing the connection would cost the next one as well: it goes alone
        then, and if it was alone already, it is refused.
        """
        with self._room:
            self._channel = self._link = None
            self._lost = True
            messages = list(self._unconfirmed.values())
            refused = messages if len(messages) == 1 and is_our_doing(error) else []
            if refused:
                self._suspects = max(self._suspects - 1, 0)
            elif is_our_doing(error):
                self._suspects = len(messages)
            self._take_back([each for each in messages if each not in refused])
            self._room.notify_all()
        for message in refused:
            message.confirmed.set_exception(PublishError(describe(error)))

    def on_refused(self, reason: str) -> None:
        """The broker says no."""
        self._refusal = StartError(reason)
        self._fail_all(self._refusal)

    def _open_channel(self, link: Link) -> None:
        if link is not self._link:
            return
        try:
            link.channel(self._on_channel_open)
        except ChannelError as error:
            level = self._complaints.level(str(error))
            _log.log(level, "can't publish: %s; trying again", error)
            link.later(_CHANNEL_PAUSE, lambda: self._open_channel(link))

    def _close_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()

    def _on_channel_open(self, channel: pika.channel.Channel) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_channel_closed)
        channel.confirm_delivery(self._on_confirm, lambda _: self._on_ready(channel))

    def _on_ready(self, channel: pika.channel.Channel) -> None:
        self.connection.used()
        with self._lock:
            self._channel = channel
            self._last_tag = 0
            self._lost = False
        self._send()

    def _on_channel_closed(self, channel: pika.channel.Channel, reason: BaseException) -> None:
        """What the broker refuses costs the channel: no such exchange (404), no permission (403), or
        something about the message itself, such as its size or its expiration (406)."""
        if channel is not self._channel or not isinstance(
            reason, pika.exceptions.ChannelClosedByBroker
        ):
            return
        error = PublishError(f"{reason.reply_code} {reason.reply_text}")
        with self._room:
            self._channel = None
            messages = list(self._unconfirmed.values())
            failed = [each for each in messages if each.is_named_in(reason.reply_text)]
            if not failed and len(messages) == 1:
                failed = messages
            # Of many, the broker doesn't say which: they go again one by one, until it is alone.
            self._suspects = max(self._suspects - 1, 0) if failed else len(messages)
            self._take_back([each for each in messages if each not in failed])
            self._room.notify_all()
        for message in failed:
            message.confirmed.set_exception(error)
        if self._link is not None:
            self._open_channel(self._link)

    def _take_back(self, messages: list[_Message]) -> None:
        """What was under way waits again, ahead of what came later."""
        for message in messages:
            message.returned = None
        self._waiting.extendleft(reversed(messages))
        self._unconfirmed.clear()

    def _send(self) -> None:
        """Send all that waits, in one go."""
        burst = []
        failed: list[tuple[_Message, Exception]] = []
        with self._room:
            channel, link = self._channel, self._link
            if channel is None or link is None or not channel.is_open:
                return
            frame_max = link.amqp.params.frame_max
            while self._waiting and not (self._suspects and self._unconfirmed):
                message = self._waiting.popleft()
                try:
                    data = frames.publish(
                        channel.channel_number,
                        message.exchange,
                        message.routing_key,
                        message.encoded,
                        message.body,
                        message.mandatory,
                        frame_max,
                    )
                except Exception as error:  # a name that is too long, a body that isn't bytes
                    failed.append((message, error))
                    self._room.notify_all()
                    continue
                self._last_tag += 1
                self._unconfirmed[self._last_tag] = message
                burst.append(data)
        link.transport.send(burst)
        for message, reason in failed:
            message.confirmed.set_exception(PublishError(f"{type(reason).__name__}: {reason}"))

    def _on_return(
        self, _channel: Any, method: Basic.Return, _properties: Any, body: bytes
    ) -> None:
        """Unroutable: the broker says so before it confirms the message."""
        key = (method.exchange or "", method.routing_key or "", body)
        with self._lock:
            for message in self._unconfirmed.values():
                if message.returned is None and message.key == key:
                    message.returned = f"{method.reply_code} {method.reply_text}"
                    break

    def _on_confirm(self, frame: Any) -> None:
        """``basic.ack`` or ``basic.nack`` for one message or all up to it."""
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        nacked = isinstance(frame.method, Basic.Nack)
        with self._room:
            tags = [each for each in self._unconfirmed if each <= tag] if multiple else [tag]
            messages = [self._unconfirmed.pop(each, None) for each in tags]
            careful, self._suspects = self._suspects, max(self._suspects - len(tags), 0)
            self._room.notify_all()
        if careful:
            self._send()
        for message in messages:
            if message is None:
                continue
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
            messages = [*self._unconfirmed.values(), *self._waiting]
            self._unconfirmed.clear()
            self._waiting.clear()
            self._room.notify_all()
        for message in messages:
            message.confirmed.set_exception(error)
