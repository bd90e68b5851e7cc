"""pika's open channel, shared by the workers of a consumer: what arrives on it, and what leaves on it."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

import pika
from pika.spec import Basic

from ...connection.link import Link
from ...connection.scratch import Scratch
from ...connection.wire import frames
from ...connection.wire.transport import HIGH_WATER
from ...fork import Process
from .acks import Acks
from .bulk import Bulk, Sizes
from .collected import Collected
from .messages import Delivery, Message
from .observer import Listener
from .retries import Retries


class OpenedChannel:
    """An open channel of a consumer, until it is closed.

    :param amqp: pika's channel
    :param inbox: takes what is delivered; while something waits there, sending may wait too
    :param sizes: how large messages are, as seen on earlier channels
    """

    def __init__(
        self, link: Link, amqp: pika.channel.Channel, inbox: SimpleQueue[Any], sizes: Sizes
    ) -> None:
        self.number: int = amqp.channel_number
        self.is_open = True
        self.broker = link.broker
        #: As the broker says; asked for each message.
        self.fears_reply_to = link.broker.fears_reply_to
        #: Other channels, for what the broker may refuse.
        self.scratch = Scratch(link)
        #: The same for transient queues, which some brokers refuse by closing the connection.
        self.scratch_for_transient = link.apart if self.broker.may_deny_transient else self.scratch
        self._transport = link.transport
        self._reader = link.transport.reader
        self._frame_max: int = link.amqp.params.frame_max
        #: Takes deliveries for the workers.
        self.inbox = inbox
        #: The latest delivery.
        self.latest: Delivery | None = None
        #: Class of the objects that stand for deliveries; an observer may put another one here.
        self.delivery_type: type[Delivery] = Delivery
        #: Is told what becomes of messages, if that is counted or traced.
        self.observer: Listener | None = None
        self._encode = link.encoder
        self._process = Process()
        # Guards which deliveries are settled and what is collected, and that what is sent keeps its order.
        self._lock = threading.Lock()
        self._acks = Acks()
        self.collected = Collected(link, self.number, self._acks, self._lock, inbox)
        #: Messages that wait for their retry.
        self.retries = Retries(link, self.reject)
        #: Counts large messages.
        self.bulk = Bulk(sizes, lambda tag: tag in self.retries or self.is_settled(tag))
        self._reader.attach(self.number, self)

    # ---- publishing, from any thread

    def encode(self, message: Message) -> bytes:
        """The frames of a publish.

        :raises ValueError: exchange or routing key exceed 255 bytes
        """
        exchange, routing_key, body, properties, mandatory = message
        encode = self._encode  # not called at once: see `Workers.handle`
        return frames.publish(
            self.number,
            exchange,
            routing_key,
            encode(properties),
            body,
            mandatory,
            self._frame_max,
        )

    def send(self, publish: bytes, delivery: Delivery | None = None) -> bool:
        """Publish what was encoded.

        :param delivery: the message that it replies to
        :returns: False, with nothing done, where the channel is gone
        """
        with self._lock:
            if self.is_open:
                collected = self.collected
                collected.publishes.append(publish)
                note = collected.note_reply  # not called at once: see `Workers.handle`
                if note is not None and delivery is not None:
                    note(delivery.arrived)
                collected.send_or_linger()
                return True
        return False

    @property
    def has_room(self) -> bool:
        """Whether `wait_for_room` would return at once."""
        return self._transport.has_room

    def wait_for_room(self) -> None:
        """Block while too much is waiting for the socket; never call this on the loop, which alone makes room."""
        while self._transport.size >= HIGH_WATER and not self._transport.wait_for_room(1.0):
            if not self.is_open:
                return

    # ---- settling, from any thread

    @property
    def outstanding(self) -> int:
        """The number of deliveries that aren't settled yet, without those that the broker has taken back."""
        with self._lock:
            return self._acks.outstanding

    def is_settled(self, tag: int) -> bool:
        """Whether this delivery was acknowledged or rejected."""
        with self._lock:
            return self._acks.is_settled(tag)

    def note_late(self, tag: int) -> None:
        """Note that the broker has waited too long for a delivery, and taken it back: nobody waits for it here."""
        with self._lock:
            self._acks.note_late(tag)

    def ack(self, tag: int, multiple: bool = False) -> None:
        """Acknowledge; a second time, or on a channel that is gone, it does nothing.

        :raises NotConnected: in a forked child, as all that settles
        """
        if self._process.forked:  # before the lock, which a fork may have left locked
            self._process.check()
        with self._lock:
            if self.is_open and self._acks.ack(tag, multiple):
                self.collected.send_or_linger()

    def reject(self, tag: int, requeue: bool) -> bool:
        """Reject: back into the queue, in a way that the broker counts, or to the dead letters.

        :returns: False, with nothing done, where it is settled already or the channel is gone
        """
        return self._refuse(tag, frames.reject(self.number, tag, requeue))

    def nack(self, tag: int, requeue: bool) -> bool:
        """As `reject`; since RabbitMQ 4.3 the broker doesn't count it."""
        return self._refuse(tag, frames.nack(self.number, tag, requeue))

    def unsettled(self, tag: int) -> list[int]:
        """Outstanding deliveries up to a tag; 0 means all, as in AMQP."""
        with self._lock:
            return self._acks.unsettled(tag)

    def reject_later(self, tag: int, seconds: float) -> None:
        """Put a message back after some seconds; until then it counts as outstanding."""
        self._process.check()
        with self._lock:
            if self.is_open and not self._acks.is_settled(tag):
                self.retries.add(tag, seconds)

    def _refuse(self, tag: int, frame: bytes) -> bool:
        self._process.check()
        with self._lock:
            if not self.is_open or not self._acks.note_rejection(tag):
                return False
            self.collected.rejects.append(frame)
            self.collected.flush()
            return True

    # ---- on the loop: mq_connector.connection.wire.deliveries.Sink

    def deliver(self, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        """A message has arrived."""
        kind = self.delivery_type  # not called at once: see `Workers.handle`
        delivery = kind(self, method, properties, body)
        delivery.arrived = self._reader.now
        self._acks.highest = delivery.tag
        self.latest = delivery
        size = len(body)
        if size <= self.bulk.counted_beyond or self.bulk.has_room(delivery.tag, size):
            self.inbox.put(delivery)

    def closing(self) -> None:
        """The broker closes the channel: a frame sent on it from now on would cost the whole connection."""
        with self._lock:
            self.is_open = False
            self.collected.forget()

    # ---- on the loop: for the consumption

    def cancel(self, consumer_tag: str) -> None:
        """Have a consumer removed that the broker has cancelled: not every cancelled one is gone."""
        with self._lock:
            self.collected.flush()
            if self.is_open:
                self._transport.send([frames.cancel(self.number, consumer_tag)])

    def flush(self) -> None:
        """Send what was collected."""
        with self._lock:
            self.collected.flush()

    def end(self) -> None:
        """The channel is gone."""
        self.closing()
        self._reader.detach(self.number)
        self.scratch.abandon()

    # ---- on the loop: while the consumer is replaced by another

    @property
    def last_tag(self) -> int:
        """The tag of the latest delivery; 0 before the first."""
        return 0 if self.latest is None else self.latest.tag

    def hold(self) -> list[int]:
        """Hold back acks and rejects, so that the broker sends no more than the prefetch.

        :returns: the tags of the messages in hand
        """
        with self._lock:
            self.collected.flush()
            self.collected.is_held = True
            return self._acks.unsettled(0)

    def release(self) -> None:
        """Send the acks and rejects that were held back."""
        with self._lock:
            self.collected.is_held = False
            self.collected.flush()
