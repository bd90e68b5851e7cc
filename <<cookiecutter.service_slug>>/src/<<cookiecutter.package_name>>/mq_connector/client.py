"""The asking side: send a request to a service's queue and wait for its reply."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from . import payload
from .channels.kept import KeptChannel
from .channels.pending import Pending, PendingRequests
from .channels.replies import ReplyChannel, ReplyQueue
from .connection import Connection, input_queue
from .connection.attempts import Attempts
from .connection.broker import INTERNAL_ERROR, NOT_FOUND, is_stuck
from .connection.link import Link
from .errors import (
    EXCERPT,
    ChannelError,
    MQError,
    NotConnected,
    PayloadError,
    RequestTimeout,
    StartError,
)
from .logs import Logger
from .payload.request import message_ids

_log = Logger(__name__)

#: Seconds before a channel is opened again.
_CHANNEL_PAUSE = 0.2
#: Seconds for each step of `Client.close`.
_CLOSE_WITHIN = 5.0


class Client:
    """Sends requests and takes their replies, from any number of threads.

    Its consumer is there before the first request leaves, so no reply can come too early.

    :param connection: may be shared; it is closed when its last member has left
    :param reply_queue: name of the queue for replies; the client makes it and deletes it. By default a UUID
    :param exclusive: whether only this connection may use that queue. Services on
        ``neon-mq-connector`` declare the queue that they reply to, which an exclusive one forbids
    :param shared: whether other clients take their replies from the same queue: replies to them are put back,
        after a pause, and the queue is deleted only when no client uses it
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
        self._queue = ReplyQueue(self.reply_queue, exclusive, shared)
        self._requests = PendingRequests()
        self._kept = KeptChannel(connection, self)
        self._replies: ReplyChannel | None = None
        #: Attempts to get a reply queue.
        self._attempts = Attempts()
        self._closed = False
        #: Set when the reply queue is deleted and the channel closed.
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
        :raises Unroutable: there is no such queue
        :raises PublishError: the message can't be sent
        :raises NotConnected: the client was closed, or was opened by the process that this one was
            forked from
        :raises StartError: the broker refuses the login, the vhost or the reply queue
        :raises ConfigurationError: the configuration lacks something
        """
        return self.outcome(self.begin(queue, data, timeout))

    def send(self, queue: str, data: Mapping[Any, Any], timeout: float = 30.0) -> None:
        """Send a request that wants no reply; returns when the broker has confirmed it.

        :param timeout: seconds; parameters and errors otherwise as for `request`
        """
        self.outcome(self.begin(queue, data, timeout, wants_reply=False))

    def begin(
        self,
        queue: str,
        data: Mapping[Any, Any],
        timeout: float = 30.0,
        wants_reply: bool = True,
        **more: Any,
    ) -> Pending:
        """Send a request, and don't wait for its reply: `outcome` does, and has to be called.

        :param wants_reply: whether the request ends with its reply, or with the broker's confirm
        :param more: further arguments of `Pending`; other parameters and errors as for `request`
        """
        own = data.get("message_id")
        if own is None:  # an empty one is one, too
            own = next(iter(message_ids(data)), None)
        if own is None:
            own = secrets.token_hex(16)
        message_id = str(own)
        message = {**data, "message_id": own}
        reply_to = self.reply_queue if wants_reply else None
        if wants_reply:
            message["routing_key"] = reply_to
        body = payload.encode(message)
        request = Pending(message_id, body, queue, timeout, reply_to, **more)
        self._kept.check()
        self._requests.add(request, before=self._kept.join)
        self.connection.call(lambda: self._send(message_id))
        return request

    def outcome(self, request: Pending) -> dict[Any, Any]:
        """Wait for the end of a request that `begin` has sent.

        :returns: the reply; an empty dict where none was wanted
        :raises MQError: as `request`
        """
        request.wait()
        self.forget(request)
        error, request.error = request.error, None
        if error is not None:
            try:
                # One error may be that of many requests: with what each caller's frames hold, it would grow without end.
                raise error.with_traceback(None)
            finally:
                del error  # whose traceback has this frame: the two would keep each other
        if request.reply is None:
            what = "reply from" if request.reply_to else "confirmation of a message to"
            reason = f": {self.connection.last_error}" if self.connection.last_error else ""
            raise RequestTimeout(
                f"no {what} {request.queue!r} within {request.timeout:g} s{reason}"
            )
        return request.reply

    def forget(self, request: Pending) -> None:
        """Stop waiting for a request: a reply to it is dropped. Calling it twice does no harm."""
        self._requests.forget(request)

    def close(self) -> None:
        """Delete the reply queue and leave the connection, which is closed if nobody else uses it.

        Requests that wait end with `NotConnected`.
        """
        if self._kept.is_forked:
            return  # the connection is the parent process's
        self._closed = True
        self._requests.refuse(NotConnected("the client is closed"))
        if self._kept.is_joined:
            self.connection.call(self._leave)
            self._left.wait(_CLOSE_WITHIN)
            self._kept.quit(_CLOSE_WITHIN)
        self._requests.end_all(NotConnected("the client was closed"))

    # ---- on the loop: mq_connector.channels.kept.Keeper

    @property
    def is_well(self) -> bool:
        """Whether replies can come."""
        return self._replies is not None and self._replies.is_ready

    def on_channel(self, link: Link, channel: pika.channel.Channel) -> None:
        """A channel was opened: take replies on it."""

        def use(_: Any, error: MQError | None) -> None:
            denied = isinstance(error, ChannelError) and error.code == INTERNAL_ERROR
            self._queue.is_exclusive |= denied
            if channel.is_open and not self._closed:
                self._replies = ReplyChannel(link, channel, self._queue, self._requests, self)
                self._kept.expect()

        if self._queue.is_exclusive or not link.broker.may_deny_transient:
            use(None, None)
        else:
            # Apart, as a broker that denies such queues closes the connection, which others may share.
            link.apart.do(input_queue.declare(self.reply_queue), use)

    def on_closed(self, reason: ChannelClosedByBroker) -> None:
        """The broker has closed the channel."""
        replies, self._replies = self._replies, None
        if replies is not None:
            replies.on_closed_by_broker(reason)
        if self._closed:  # such as when a shared reply queue isn't ours to delete (406)
            self._left.set()
            return
        if reason.reply_code == NOT_FOUND:
            # Who shared it has deleted it, after we had declared it and before we consumed it.
            self.connection.last_error = f"reply queue {self.reply_queue!r} was deleted"
            self._kept.open_again(_CHANNEL_PAUSE)
            return
        # After a half-open loss the broker takes our exclusive queue for somebody else's (405), until it
        # notices.
        text = f"{reason.reply_code} {reason.reply_text}"
        self._on_no(StartError(f"reply queue {self.reply_queue!r}: {text}"))

    def on_none_left(self, error: ChannelError) -> None:
        """There is no channel for us."""
        self._replies = None
        self._on_no(error)

    def on_lost(self, error: BaseException) -> None:
        """The link is gone; requests that wait are sent again on the next one."""
        replies, self._replies = self._replies, None
        if replies is not None and replies.is_declaring:
            # Where the broker denies transient queues.
            denied = isinstance(error, ConnectionClosedByBroker) and (
                error.reply_code == INTERNAL_ERROR
            )
            self._queue.is_exclusive |= denied
        if self._closed:
            self._left.set()

    def on_refused(self, error: StartError) -> None:
        """The broker refuses us for good: end all requests."""
        self._requests.refuse(error)
        self._requests.end_all(error)
        self._left.set()
        self._kept.leave()

    def _on_no(self, error: MQError) -> None:
        """There is no reply queue: give up if the broker refuses the first one, or else try again."""
        refusal = StartError(str(error))
        if self._attempts.is_final(refusal) and not is_stuck(error):
            self.on_refused(refusal)
        else:
            self.connection.last_error = str(error)
            self._kept.open_again(_CHANNEL_PAUSE)

    def _send(self, message_id: str) -> None:
        # Otherwise it is sent with the others, once there is a channel.
        if self._replies is not None and self._replies.is_ready:
            self._replies.send(message_id)

    def _leave(self) -> None:
        if self._replies is not None and self._replies.is_ready:
            self._replies.leave(self._left.set)
        else:
            self._left.set()

    # ---- on the loop: mq_connector.channels.replies.Asker

    def on_ready(self) -> None:
        """The consumer of the reply queue is there: send the requests that wait."""
        self._kept.has_all()
        self._attempts.succeeded()
        self.connection.used()
        for message_id in self._requests.ids():
            self._send(message_id)

    def on_cancelled(self) -> None:
        """The broker has cancelled the consumer: begin another one, on another channel."""
        self._replies = None
        self._kept.open_again(_CHANNEL_PAUSE)

    def on_reply(self, reply: dict[Any, Any]) -> bool:
        """A reply, or a part of one, has come; a subclass may do more.

        :returns: whether a request of this client waits for it
        """
        ids = message_ids(reply)
        message_id = next((each for each in ids if each in self._requests), None)
        if message_id is None:
            if ids and not self._queue.is_shared:  # there it may be somebody else's
                shown = ids[0][:EXCERPT]
                what = "a late answer to message %r is dropped: nobody waits for it any more"
                _log.info(what, shown, about={"message_id": shown, "outcome": "late"})
            return False
        if reply.get("is_final", True):
            self._requests.end(message_id, reply)
        return True

    def on_unreadable(self, error: PayloadError) -> bool:
        """A reply can't be decoded: drop it; a subclass may end a request by it.

        :returns: whether that was a reply to a request of this client
        """
        return False
