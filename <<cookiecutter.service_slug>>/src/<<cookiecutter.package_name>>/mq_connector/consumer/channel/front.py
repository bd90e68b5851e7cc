"""The channel that a callback gets: pika's method names, usable from any thread."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any, NoReturn

import pika
from pika.exceptions import ChannelWrongStateError
from pika.spec import Basic

from ...connection.wire import frames
from ...errors import NotInCallback
from ...fork import Process
from ..opened import Delivery, Message, OpenedChannel, Prefetch, lines
from ..outbox import Outbox
from ..outbox.hurried import Hurried
from .apart import Apart
from .instead import CONFIRMS, refuse_the_rest

#: What a NamedTuple's own constructor comes to, at a third of the time.
_new = tuple.__new__


class Channel(Apart):
    """What a callback gets of the channel by which its message came.

    It has the methods of pika's ``BlockingChannel``. What the broker may refuse runs on another channel, so that
    a refusal doesn't close the consumer's; what would stop the consumer raises `NotInCallback`, which says what
    to use instead.
    """

    __slots__ = ("_delivery", "_on_close", "_process")

    #: pika's numbers of the states that a channel can be in.
    CLOSED, OPENING, OPEN, CLOSING = range(4)
    #: Opening and closing it is nothing that takes time, and the broker doesn't stop its flow (RabbitMQ
    #: blocks connections instead).
    is_opening, is_closing, flow_active = False, False, True

    def __init__(
        self,
        opened: OpenedChannel,
        outbox: Outbox | Hurried,
        process: Process,
        delivery: Delivery | None = None,
    ) -> None:
        self._opened = opened
        self._delivery = delivery
        self._outbox = outbox
        self._process = process

    @property
    def channel_number(self) -> int:
        """AMQP's number of the channel."""
        return self._opened.number

    @property
    def is_open(self) -> bool:
        """Whether the message can still be settled."""
        return self._opened.is_open

    @property
    def is_closed(self) -> bool:
        """The opposite of `is_open`, as pika has both."""
        return not self._opened.is_open

    @property
    def consumer_tags(self) -> list[str]:
        """AMQP's name of the consumer that the message came to."""
        delivery = self._delivery
        return [] if delivery is None else [delivery.method.consumer_tag or ""]

    def __int__(self) -> int:
        return self.channel_number

    def __repr__(self) -> str:
        return f"<Channel number={self.channel_number} {'open' if self.is_open else 'closed'}>"

    # ---- publishing

    def basic_publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes | str,
        properties: pika.BasicProperties | None = None,
        mandatory: bool = False,
    ) -> None:
        """Publish a message; returns before it is sent.

        A message to the default exchange is mandatory, so that a reply whose queue isn't there yet is returned,
        and sent again. A message to another exchange is confirmed by the broker before the message that is being
        handled is acknowledged; if it is refused, that message is dead-lettered. While the connection is lost,
        messages are held for the next one.

        :raises NotConnected: in a forked child, or more messages are held than may be, and there was no room
            within 30 s
        :raises ValueError: the broker wouldn't take it: a name of more than 255 bytes, an expiration
            that is no number, another user's id, headers that don't fit
        :raises TypeError: a body that is neither text nor has bytes
        """
        if self._process.forked:
            self._process.check()
        if type(body) is not bytes:
            body = body.encode() if isinstance(body, str) else frames.octets(body)
        if exchange:
            self._catch_up()  # it, or what is bound to it, may just have been declared
        else:
            mandatory = True
        message = _new(Message, (exchange, routing_key, body, properties, mandatory))
        self._outbox.publish(self._opened, message, self._delivery)

    # ---- settling

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        """Acknowledge; a second time, or on a channel that is gone, it does nothing.

        :raises NotConnected: in a forked child, as all that settles
        :raises TypeError: the tag is no whole number
        """
        # 1.0 equals a tag, and would be found to be none only as it is sent, with the acks of others.
        delivery_tag = index(delivery_tag)
        confirms = None if self._delivery is None else self._delivery.confirms
        if confirms is None:
            self._opened.ack(delivery_tag, multiple)
        else:
            # Where it is refused, the message is dead-lettered instead.
            opened = self._opened
            confirms.then(lambda: opened.ack(delivery_tag, multiple), lambda _: None)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """Reject: back into the queue, or to the dead letters; a second time it does nothing."""
        if self._opened.reject(delivery_tag, requeue):
            lines.rejected(self._delivery, delivery_tag, requeue)

    def basic_nack(
        self, delivery_tag: int = 0, multiple: bool = False, requeue: bool = True
    ) -> None:
        """Negative acknowledgement, as `basic_reject`; since RabbitMQ 4.3 it isn't counted."""
        for tag in self._opened.unsettled(delivery_tag) if multiple else (delivery_tag,):
            if self._opened.nack(tag, requeue):
                lines.rejected(self._delivery, tag, requeue)

    # ---- what pika offers beside

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int = 0,
        global_qos: bool = False,
        callback: Callable[[Any], object] | None = None,
    ) -> None:
        """Set how many messages the broker sends this consumer ahead; ``MQ_PREFETCH`` has precedence.

        It counts for the whole consumer, whatever `global_qos` is, and only once the consumer has all the
        messages in hand that it may have, as the broker must then make another one.

        :param prefetch_size: has to be 0, as RabbitMQ counts no bytes
        :param prefetch_count: 0 leaves it to the connector (in AMQP, 0 would set no limit)
        :param callback: called at once
        :raises ValueError: one of the two is out of its range
        :raises TypeError: the count is no whole number
        """
        if prefetch_size:
            raise ValueError(f"prefetch_size is {prefetch_size}: RabbitMQ knows 0 only")
        if not 0 <= prefetch_count <= 65535:
            raise ValueError(f"prefetch_count is {prefetch_count}: it must be from 0 to 65535")
        self._opened.inbox.put(Prefetch(index(prefetch_count)))
        if callback is not None:
            callback(pika.frame.Method(self.channel_number, Basic.QosOk()))

    def confirm_delivery(self, *callbacks: Any) -> None:
        """Nothing to do: what the broker may refuse is confirmed before the message is acknowledged.

        :raises NotInCallback: each confirm is to be told to a callback
        """
        if callbacks:
            raise NotInCallback(*CONFIRMS)

    def close(self, reply_code: int = 0, reply_text: str = "Normal shutdown") -> None:
        """Close the channel for this callback only; a second time it does nothing.

        The consumer's channel stays. What was published and settled before counts, and the message is
        settled as if this had not been called: acknowledged when the callback returns, dead-lettered when
        it raises. Without ``ack_on_return`` it is delivered again after a second, if it isn't settled by then.

        Publishing, settling and declaring raise pika's ``ChannelWrongStateError`` afterwards.
        """
        opened: Any = self._opened
        if isinstance(opened, _Shut):
            return
        shut: Any = _Shut(opened, self._outbox, self._delivery)
        self._opened = self._outbox = shut
        self._delivery = None
        on_close = getattr(self, "_on_close", None)
        if on_close is not None:
            on_close(shut.delivery)

    # ---- for the connector

    def go_on_aside(self, call: Callable[[Callable[[], object]], object]) -> None:
        """Its callback goes on where it must not wait: what would have to, is done by a function given to `call`."""
        if isinstance(self._outbox, Outbox):  # not where the callback has closed it
            self._outbox = Hurried(self._outbox, call)

    def leave(self, on_close: Callable[[Delivery], None]) -> None:
        """Its callback has returned without ``ack_on_return``: whoever still has the channel settles the message.

        :param on_close: called with it if the channel was or will be closed, so that nobody can
        """
        self._on_close = on_close
        opened: Any = self._opened
        if isinstance(opened, _Shut) and opened.delivery is not None:
            on_close(opened.delivery)

    @property
    def anew(self) -> Channel:
        """It, or another one like it where its callback has closed it: for what isn't that one's doing."""
        opened: Any = self._opened
        if isinstance(opened, _Shut):
            return Channel(opened.opened, opened.outbox, self._process, opened.delivery)
        return self


class _Shut:
    """Stands in the place of what was behind a channel that its callback has closed."""

    __slots__ = ("connection", "delivery", "number", "opened", "outbox")

    is_open = False

    def __init__(
        self, opened: OpenedChannel, outbox: Outbox | Hurried, delivery: Delivery | None
    ) -> None:
        self.opened = opened
        self.outbox = outbox
        self.delivery = delivery
        self.connection = outbox.connection
        self.number = opened.number

    def __getattr__(self, _: str) -> NoReturn:
        raise ChannelWrongStateError("Channel is closed: the callback has called its close()")


refuse_the_rest(Channel)
