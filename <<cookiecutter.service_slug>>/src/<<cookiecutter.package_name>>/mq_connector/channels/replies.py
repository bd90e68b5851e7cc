"""One channel of a client's: requests leave on it, and its consumer takes the replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pika
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic

from .. import payload
from ..connection.link import Link
from ..errors import PayloadError, PublishError, Unroutable
from .pending import PendingRequests
from .unconfirmed import Unconfirmed

_CONSUMER_TAG = "replies"
#: Seconds for which somebody else's reply is kept from a shared queue, so that it isn't delivered to us
#: again at once.
_PUT_BACK_AFTER = 0.05


@dataclass
class ReplyQueue:
    """Where replies go; parameters as those of `Client`."""

    name: str
    is_exclusive: bool
    is_shared: bool


class Asker(Protocol):
    """Who asks; hears on the loop."""

    def on_ready(self) -> None:
        """Replies can come, so requests may leave."""

    def on_cancelled(self) -> None:
        """The broker has cancelled the consumer, as when the reply queue was deleted."""

    def on_reply(self, reply: dict[Any, Any]) -> bool:
        """A reply has come.

        :returns: whether it is an answer to a request of ours
        """

    def on_unreadable(self, error: PayloadError) -> bool:
        """What has come isn't in Neon's format; returns as `on_reply`."""


class ReplyChannel:
    """One opened channel, from its opening to its end; lives on the loop.

    :param channel: pika's, just opened
    :param queue: is declared, then consumed
    """

    def __init__(
        self,
        link: Link,
        channel: pika.channel.Channel,
        queue: ReplyQueue,
        requests: PendingRequests,
        asker: Asker,
    ) -> None:
        self._link = link
        self._channel = channel
        self._queue = queue
        self._requests = requests
        self._asker = asker
        self._unconfirmed: Unconfirmed[str] = Unconfirmed()
        self._is_consuming = False
        #: Whether the broker is being asked for the queue; where it denies such, that costs the connection.
        self.is_declaring = True
        channel.add_on_return_callback(self._on_return)
        channel.add_on_cancel_callback(self._on_cancel)
        channel.confirm_delivery(self._on_confirm)
        channel.queue_declare(queue.name, exclusive=queue.is_exclusive, callback=self._consume)

    @property
    def is_ready(self) -> bool:
        """Whether replies can come, so that requests may leave."""
        return self._is_consuming and self._channel.is_open

    def send(self, message_id: str) -> None:
        """Send a request, unless nobody waits for it any more or it has left on this channel already."""
        request = self._requests.get(message_id)
        if request is None or request.sent_on is self:
            return
        request.sent_on = self
        if not request.remaining:
            return
        try:
            self._channel.basic_publish(
                "", request.queue, request.body, request.properties, mandatory=True
            )
        except Exception as error:  # a name that AMQP can't hold: the broker knows nothing of it
            self._fail(message_id, f"not sent: {type(error).__name__}: {error}")
            return
        self._unconfirmed.add(message_id)

    def on_closed_by_broker(self, reason: ChannelClosedByBroker) -> None:
        """The broker has closed the channel: end the requests that were under way on it.

        One of them is the reason, such as a body over the broker's limit (406); sent again, it would cost
        the next channel.
        """
        for message_id in self._unconfirmed:
            self._fail(message_id, f"{reason.reply_code} {reason.reply_text}")

    def leave(self, done: Callable[[], None]) -> None:
        """Delete the queue, unless others use it, and close the channel.

        :param done: called when that is done; not if the broker closes the channel instead
        """
        channel, shared = self._channel, self._queue.is_shared

        def close(_: Any) -> None:
            channel.add_on_close_callback(lambda *_: done())
            channel.close()

        def delete(_: Any) -> None:
            channel.queue_delete(
                self._queue.name, if_unused=shared, if_empty=shared, callback=close
            )

        if shared:
            channel.basic_cancel(_CONSUMER_TAG, callback=delete)
        else:
            delete(None)

    def _fail(self, message_id: str, text: str) -> None:
        self._requests.end(message_id, error=PublishError(text))

    # ---- pika's callbacks

    def _consume(self, _: Any) -> None:
        self.is_declaring = False
        self._channel.basic_consume(
            self._queue.name,
            self._on_reply,
            auto_ack=not self._queue.is_shared,
            consumer_tag=_CONSUMER_TAG,
            callback=self._on_consuming,
        )

    def _on_consuming(self, _: Any) -> None:
        self._is_consuming = True
        self._asker.on_ready()

    def _on_cancel(self, _: Any) -> None:
        if self._channel.is_open:  # else it was given up already
            self._asker.on_cancelled()

    def _on_confirm(self, frame: Any) -> None:
        """The broker has taken messages (``basic.ack``), or won't (``basic.nack``)."""
        message_ids, nacked = self._unconfirmed.take(frame)
        for message_id in message_ids:
            request = self._requests.get(message_id)
            if nacked:
                self._fail(message_id, "the broker refused the message (basic.nack)")
            elif request is not None and request.reply_to is None:
                self._requests.end(message_id, {})

    def _on_reply(
        self,
        channel: pika.channel.Channel,
        method: Basic.Deliver,
        _properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        try:
            is_ours = self._asker.on_reply(payload.decode(body))
        except PayloadError as error:
            is_ours = self._asker.on_unreadable(error)
        if not self._queue.is_shared:
            return
        tag = method.delivery_tag or 0
        if is_ours:
            channel.basic_ack(tag)
        else:
            self._link.later(_PUT_BACK_AFTER, lambda: _put_back(channel, tag))

    def _on_return(
        self, channel: Any, method: Basic.Return, properties: pika.BasicProperties, _body: bytes
    ) -> None:
        vhost = channel.connection.params.virtual_host
        text = f"vhost {vhost!r} has no queue {method.routing_key!r}; is the service running?"
        self._requests.end(str(properties.message_id), error=Unroutable(text))


def _put_back(channel: pika.channel.Channel, tag: int) -> None:
    if channel.is_open:
        channel.basic_reject(tag, requeue=True)
