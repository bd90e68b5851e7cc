"""The asking side: send a request to a service's queue and wait for its reply."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import pika
from pika.exceptions import ConnectionClosedByBroker
from pika.spec import Basic

from . import payload
from .connection import Connection
from .connection.broker import INTERNAL_ERROR
from .connection.link import Link
from .errors import (
    ChannelError,
    MQError,
    NotConnected,
    PayloadError,
    PublishError,
    RequestTimeout,
    StartError,
)
from .fork import Process
from .logs import Logger
from .payload.request import message_ids

_log = Logger(__name__)

_CONSUMER_TAG = "replies"
#: Seconds before a channel is opened again.
_CHANNEL_PAUSE = 0.2
#: Seconds for each step of `Client.close`.
_CLOSE_WITHIN = 5.0
#: Seconds for which somebody else's reply is kept from a shared queue, so that it doesn't come round
#: and round.
_PUT_BACK_AFTER = 0.05


class _Pending:
    """A request that waits for its reply."""

    def __init__(self, body: bytes, queue: str, timeout: float, wants_reply: bool) -> None:
        self.body = body
        self.queue = queue
        self.deadline = time.monotonic() + timeout
        self.wants_reply = wants_reply
        self.sent_on: pika.channel.Channel | None = None
        self.done = threading.Event()
        self.reply: dict[Any, Any] | None = None
        self.error: MQError | None = None

    def end(self, reply: dict[Any, Any] | None, error: MQError | None = None) -> None:
        self.reply, self.error = reply, error
        self.done.set()


class Client:
    """Sends requests and takes their replies, from any number of threads.

    Its consumer is there before the first request leaves, so no reply can come too early.

    :param connection: may be shared; it is closed when the last has left it
    :param reply_queue: name of the queue for replies; made by the client and gone with it
    :param exclusive: whether only this connection may use that queue. The incumbent's services
        declare the queue that they reply to, which an exclusive one forbids
    :param shared: whether other clients take their replies from the same queue: theirs are put back,
        after a pause, and the queue goes only when nobody uses it
    """

    def __init__(
        self,
        connection: Connection,
        reply_queue: str | None = None,
        exclusive: bool = True,
        shared: bool = False,
    ) -> None:
        self.connection = connection
        self.reply_queue = reply_queue or uuid.uuid4().hex
        self._exclusive = exclusive
        self._shared = shared
        self._channel: pika.channel.Channel | None = None
        self._published = 0
        self._unconfirmed: dict[int, str] = {}
        self._pending: dict[str, _Pending] = {}
        self._lock = threading.Lock()
        self._refusal: MQError | None = None
        self._ever_ready = False
        self._declaring = False
        self._process: Process | None = None
        self._link: Link | None = None
        self._closed = False
        #: The reply queue is deleted and the channel closed.
        self._left = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, queue: str, data: Mapping[Any, Any], timeout: float = 30.0) -> dict[Any, Any]:
        """Send a request and wait for its reply.

        :param queue: the service's input queue
        :param timeout: seconds for all of it, connecting included; the request expires with it
        :raises RequestTimeout: no reply in time
        :raises PublishError: there is no such queue, or the message can't be sent
        :raises NotConnected: the client was closed, or was opened by the process that this one was
            forked from
        :raises StartError: the broker refuses us
        :raises ConfigurationError: the configuration lacks something
        """
        return self._ask(queue, data, timeout, wants_reply=True)

    def send(self, queue: str, data: Mapping[Any, Any], timeout: float = 30.0) -> None:
        """Send a request that nobody answers; returns when the broker has taken it.

        :param timeout: seconds; parameters and errors otherwise as for `request`
        """
        self._ask(queue, data, timeout, wants_reply=False)

    def _ask(
        self, queue: str, data: Mapping[Any, Any], timeout: float, wants_reply: bool
    ) -> dict[Any, Any]:
        own = data.get("message_id")
        if own is None:  # an empty one is one, too
            own = next(iter(message_ids(data)), None)
        if own is None:
            own = secrets.token_hex(16)
        message_id = str(own)
        message = {**data, "message_id": own}
        if wants_reply:
            message["routing_key"] = self.reply_queue
        pending = _Pending(payload.encode(message), queue, timeout, wants_reply)
        if self._process is not None:
            self._process.check()  # before the lock, which a fork may have left locked
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            if self._closed:
                raise NotConnected("the client is closed")
            if self._process is None:
                self.connection.join(self)
                self._process = Process()
            self._pending[message_id] = pending
        self.connection.call(lambda: self._publish(message_id))
        pending.done.wait(min(timeout, threading.TIMEOUT_MAX))
        with self._lock:
            self._pending.pop(message_id, None)
        if pending.error is not None:
            raise pending.error
        if pending.reply is None:
            what = "reply from" if wants_reply else "confirmation of a message to"
            trouble = f": {self.connection.trouble}" if self.connection.trouble else ""
            raise RequestTimeout(f"no {what} {queue!r} within {timeout:g} s{trouble}")
        return pending.reply

    def close(self) -> None:
        """Delete the reply queue and close the connection; requests that wait are ended."""
        if self._process is not None and self._process.forked:
            return  # the connection is the parent process's
        with self._lock:
            self._closed = True
        if self._process is not None:
            self.connection.call(self._leave)
            self._left.wait(_CLOSE_WITHIN)
            self.connection.quit(self, _CLOSE_WITHIN)
        self._end_all(NotConnected("the client was closed"))

    # ---- on the loop: mq_connector.connection.supervised.Member

    @property
    def is_well(self) -> bool:
        """Whether replies can come."""
        return self._channel is not None

    def on_open(self, link: Link) -> None:
        """There is a link."""
        self._link = link
        self._open_channel(link)

    def on_lost(self, error: BaseException) -> None:
        """The link is gone; requests that wait are sent again on the next one."""
        if self._declaring and isinstance(error, ConnectionClosedByBroker):
            # Where the broker denies transient queues.
            self._exclusive |= error.reply_code == INTERNAL_ERROR
        self._declaring = False
        self._channel = self._link = None
        if self._closed:
            self._left.set()

    def on_refused(self, reason: str) -> None:
        """The broker says no."""
        self._refuse(StartError(reason))

    def _open_channel(self, link: Link) -> None:
        if link is not self._link or self._channel is not None:
            return
        try:
            link.channel(self._on_channel_open)
        except ChannelError as error:
            self._on_no(str(error))

    def _on_no(self, text: str) -> None:
        """The broker won't have it: for good, or only now if it once did."""
        if self._ever_ready:
            self.connection.trouble = text
            self._open_anew()
        else:
            self._refuse(StartError(text))

    def _on_channel_open(self, channel: pika.channel.Channel) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(lambda _: self._open_anew())

        def consume(_: Any) -> None:
            self._declaring = False
            channel.basic_consume(
                self.reply_queue,
                self._on_reply,
                auto_ack=not self._shared,
                consumer_tag=_CONSUMER_TAG,
                callback=lambda _: self._on_ready(channel),
            )

        channel.confirm_delivery(self._on_confirmed)
        self._declaring = True
        channel.queue_declare(self.reply_queue, exclusive=self._exclusive, callback=consume)

    def _on_ready(self, channel: pika.channel.Channel) -> None:
        self._channel = channel
        self._ever_ready = True
        self._published = 0
        self._unconfirmed.clear()
        self.connection.used()
        with self._lock:
            waiting = list(self._pending)
        for message_id in waiting:
            self._publish(message_id)

    def _on_channel_closed(self, channel: pika.channel.Channel, reason: BaseException) -> None:
        if not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            return
        self._declaring = False
        if channel is self._channel:
            # What was under way has cost the channel, such as a body over the broker's limit (406);
            # sent again, it would cost the next one.
            refused = PublishError(f"{reason.reply_code} {reason.reply_text}")
            for message_id in list(self._unconfirmed.values()):
                self._end(message_id, None, refused)
        if self._closed:  # such as when a shared reply queue isn't ours to delete (406)
            self._channel = None
            self._left.set()
            return
        # After a half-open loss the broker takes our exclusive queue for somebody else's (405), until it
        # notices.
        self._on_no(f"reply queue {self.reply_queue!r}: {reason.reply_code} {reason.reply_text}")

    def _open_anew(self) -> None:
        """Another channel, after a pause, and with it another consumer of the reply queue."""
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()
        link = self._link
        if link is not None:
            link.later(_CHANNEL_PAUSE, lambda: self._open_channel(link))

    def _publish(self, message_id: str) -> None:
        with self._lock:
            pending = self._pending.get(message_id)
        if self._channel is None or not self._channel.is_open or pending is None:
            return  # sent once there is a channel; or nobody waits any more
        if pending.sent_on is self._channel:
            return  # the channel opened between a caller's entry and its call: sent with the others
        pending.sent_on = self._channel
        remaining = int((pending.deadline - time.monotonic()) * 1000)
        if remaining <= 0:
            return
        properties = pika.BasicProperties(
            expiration=str(remaining),
            message_id=message_id,
            # For the error reply to a body that the service can't decode.
            reply_to=self.reply_queue if pending.wants_reply else None,
        )
        try:
            self._channel.basic_publish("", pending.queue, pending.body, properties, mandatory=True)
        except Exception as error:  # a name that AMQP can't hold: the broker knows nothing of it
            failure = PublishError(f"not sent: {type(error).__name__}: {error}")
            self._end(message_id, None, failure)
            return
        self._published += 1
        self._unconfirmed[self._published] = message_id

    def _on_confirmed(self, frame: Any) -> None:
        """The broker has taken messages (``basic.ack``), or won't (``basic.nack``)."""
        tag = frame.method.delivery_tag
        tags = (
            [each for each in self._unconfirmed if each <= tag] if frame.method.multiple else [tag]
        )
        for each in tags:
            message_id = self._unconfirmed.pop(each, None)
            if message_id is None:
                continue
            pending = self._pending.get(message_id)
            if isinstance(frame.method, Basic.Nack):
                self._end(
                    message_id, None, PublishError("the broker refused the message (basic.nack)")
                )
            elif pending is not None and not pending.wants_reply:
                self._end(message_id, {})

    def _on_reply(
        self,
        channel: pika.channel.Channel,
        method: Basic.Deliver,
        _properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        try:
            reply = payload.decode(body)
        except PayloadError:
            reply = {}  # not from a service that speaks Neon's format
        message_id = next((each for each in message_ids(reply) if each in self._pending), None)
        if self._shared:
            tag = method.delivery_tag or 0
            if message_id is not None:
                channel.basic_ack(tag)
            else:
                self.connection.later(_PUT_BACK_AFTER, lambda: _put_back(channel, tag))
        if message_id is not None and reply.get("is_final", True):
            self._end(message_id, reply)

    def _on_return(
        self, _channel: Any, method: Basic.Return, properties: pika.BasicProperties, _body: bytes
    ) -> None:
        vhost = self.connection.address.parameters[0].virtual_host
        text = f"vhost {vhost!r} has no queue {method.routing_key!r}"
        self._end(
            str(properties.message_id), None, PublishError(f"{text}; is the service running?")
        )

    def _leave(self) -> None:
        channel = self._channel
        if channel is None or not channel.is_open:
            self._left.set()
            return

        def delete(_: Any) -> None:
            channel.queue_delete(
                self.reply_queue,
                if_unused=self._shared,
                if_empty=self._shared,
                callback=lambda _: self._close_channel(channel),
            )

        if self._shared:
            channel.basic_cancel(_CONSUMER_TAG, callback=delete)
        else:
            delete(None)

    def _close_channel(self, channel: pika.channel.Channel) -> None:
        channel.add_on_close_callback(lambda *_: self._left.set())
        channel.close()

    # ---- outcomes

    def _end(
        self, message_id: str, reply: dict[Any, Any] | None, error: MQError | None = None
    ) -> None:
        with self._lock:
            pending = self._pending.pop(message_id, None)
        if pending is not None:
            pending.end(reply, error)

    def _refuse(self, error: MQError) -> None:
        self._refusal = error
        self._left.set()
        self._end_all(error)
        self.connection.leave(self)

    def _end_all(self, error: MQError) -> None:
        with self._lock:
            pending, self._pending = list(self._pending.values()), {}
        for each in pending:
            each.end(None, error)


def _put_back(channel: pika.channel.Channel, tag: int) -> None:
    if channel.is_open:
        channel.basic_reject(tag, requeue=True)
