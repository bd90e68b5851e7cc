"""One opened channel of a consumer: what arrives on it, and what leaves on it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

import pika
from pika.spec import Basic

from ..connection import frames
from ..connection.link import Link
from ..connection.scratch import Scratch
from ..fork import Process
from .acks import Acks

#: Longest time in seconds that a publish or an ack waits for others to travel with.
LINGER = 0.005


class Message(NamedTuple):
    """What is to be published, and where."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties | None = None
    mandatory: bool = False


class Confirms:
    """What was published for one delivery and must be confirmed first, and what has to wait for that.

    :param call: runs a function on the loop of the consumer's connection, where all that waits has its
        turn, in order
    """

    __slots__ = ("_call", "_error", "_lock", "_pending", "_waiting")

    def __init__(self, call: Callable[[Callable[[], object]], None]) -> None:
        self._call = call
        # Guards all below; nothing is called while it is held.
        self._lock = threading.Lock()
        self._pending = 0
        self._error: Exception | None = None
        self._waiting: deque[tuple[Callable[[], object], Callable[[Exception], object]]] = deque()

    def expect(self) -> None:
        """One more publish has to be confirmed."""
        with self._lock:
            self._pending += 1

    def outcome(self, error: Exception | None) -> None:
        """One is confirmed, or refused."""
        with self._lock:
            self._pending -= 1
            self._error = self._error or error
        self._call(self._run)

    def then(self, confirmed: Callable[[], object], refused: Callable[[Exception], object]) -> None:
        """Call one of the two when all that was expected so far is confirmed, or one of it was refused."""
        with self._lock:
            self._waiting.append((confirmed, refused))
        self._call(self._run)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or (self._pending and self._error is None):
                    return
                confirmed, refused = self._waiting.popleft()
                error = self._error
            if error is None:
                confirmed()
            else:
                refused(error)


class Delivery:
    """A message in hand.

    :ivar confirms: what its callback has published that has to be confirmed before it is acknowledged;
        None for most
    """

    __slots__ = ("body", "confirms", "method", "opened", "properties", "tag")

    def __init__(
        self,
        opened: OpenedChannel,
        method: Basic.Deliver,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        self.opened = opened
        self.method = method
        self.properties = properties
        self.body = body
        self.confirms: Confirms | None = None
        assert method.delivery_tag is not None  # whatever was delivered has one
        self.tag: int = method.delivery_tag


class OpenedChannel:
    """pika's open channel, shared by the workers of a consumer, until it is closed.

    Publishes and acknowledgements are collected and leave together: at once while nothing else is
    waiting to be handled, otherwise in bursts. In a burst publishes stand first, so that no reply can
    be lost behind the ack of its request.

    :param amqp: pika's channel
    :param inbox: takes what is delivered; while something waits there, sending can wait too
    """

    def __init__(self, link: Link, amqp: pika.channel.Channel, inbox: SimpleQueue[Any]) -> None:
        self.number: int = amqp.channel_number
        self.is_open = True
        self.broker = link.broker
        #: For what the broker may refuse.
        self.scratch = Scratch(link)
        #: The same for transient queues, which some brokers refuse in a way that costs a connection.
        self.scratch_for_transient = link.apart if self.broker.may_deny_transient else self.scratch
        self._link = link
        self._transport = link.transport
        self._frame_max: int = link.amqp.params.frame_max
        self._inbox = inbox
        #: Collected frames that are worth sending.
        self.burst = 1
        #: What has come last.
        self.latest: Delivery | None = None
        self._encode = link.encoder
        self._process = Process()
        # Guards all below, and that what is sent keeps its order.
        self._lock = threading.Lock()
        self._acks = Acks()
        self._publishes: list[bytes] = []
        self._rejects: list[bytes] = []
        self._retries: set[int] = set()
        self._lingering = False
        #: Whether nothing is settled at the moment; what was in hand when that began, and the tags of the
        #: last delivery then and at the beginning of the consumer.
        self._is_held = False
        self._held_in_hand = self._held_at = self._began_at = 0
        self._transport.reader.attach(self.number, self)

    # ---- publishing, from any thread

    def encode(self, message: Message) -> bytes:
        """The frames of a publish.

        :raises ValueError: exchange or routing key exceed 255 bytes
        """
        exchange, routing_key, body, properties, mandatory = message
        return frames.publish(
            self.number,
            exchange,
            routing_key,
            self._encode(properties),
            body,
            mandatory,
            self._frame_max,
        )

    def send(self, publish: bytes) -> bool:
        """Publish what was encoded.

        :returns: False, with nothing done, where the channel is gone
        """
        with self._lock:
            if self.is_open:
                self._publishes.append(publish)
                self._send_or_linger()
                return True
        return False

    def wait_for_room(self) -> None:
        """Wait while too much is waiting for the socket; never on the loop, which alone makes room."""
        while not self._transport.wait_for_room(1.0):
            if not self.is_open:
                return

    # ---- settling, from any thread

    @property
    def outstanding(self) -> int:
        """Deliveries that nobody has settled yet."""
        with self._lock:
            return self._acks.outstanding

    def is_settled(self, tag: int) -> bool:
        """Whether somebody has acknowledged or rejected this delivery."""
        with self._lock:
            return self._acks.is_settled(tag)

    def ack(self, tag: int, multiple: bool = False) -> None:
        """Acknowledge; a second time, or on a channel that is gone, it does nothing.

        :raises NotConnected: in a forked child, as all that settles
        """
        self._process.check()  # before the lock, which a fork may have left locked
        with self._lock:
            if self.is_open and self._acks.ack(tag, multiple):
                self._send_or_linger()

    def reject(self, tag: int, requeue: bool) -> None:
        """Reject: back into the queue, in a way that the broker counts, or to the dead letters."""
        self._refuse(tag, frames.reject(self.number, tag, requeue))

    def nack(self, tag: int, requeue: bool) -> None:
        """As `reject`; since RabbitMQ 4.3 the broker doesn't count it."""
        self._refuse(tag, frames.nack(self.number, tag, requeue))

    def unsettled(self, tag: int) -> list[int]:
        """Outstanding deliveries up to a tag; 0 means all, as in AMQP."""
        with self._lock:
            return self._acks.unsettled(tag)

    def reject_later(self, tag: int, seconds: float) -> None:
        """Put a message back after a while; until then it counts as outstanding."""
        with self._lock:
            if not self.is_open or self._acks.is_settled(tag):
                return
            self._retries.add(tag)
        self._link.call(lambda: self._link.later(seconds, lambda: self._reject_retries({tag})))

    @property
    def retrying(self) -> int:
        """Messages that wait for their retry."""
        return len(self._retries)

    def reject_retries(self) -> None:
        """Put back at once what was to wait; for the end of the consumer."""
        self._reject_retries(set(self._retries))

    def _reject_retries(self, tags: set[int]) -> None:
        for tag in tags & self._retries:
            self._retries.discard(tag)
            self.reject(tag, requeue=True)

    def _refuse(self, tag: int, frame: bytes) -> None:
        self._process.check()
        with self._lock:
            if self.is_open and self._acks.told(tag):
                self._rejects.append(frame)
                self._flush()

    # ---- on the loop: mq_connector.connection.deliveries.Sink

    def deliver(self, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        """A message has arrived."""
        delivery = Delivery(self, method, properties, body)
        self._acks.delivered(delivery.tag)
        self.latest = delivery
        self._inbox.put(delivery)

    def closing(self) -> None:
        """The channel ends: a frame sent on it from now on would cost the whole connection."""
        with self._lock:
            self.is_open = False

    # ---- on the loop: for the consumption

    def cancel(self, consumer_tag: str) -> None:
        """Have a consumer removed that the broker has cancelled: not every cancelled one is gone."""
        with self._lock:
            self._flush()
            if self.is_open:
                self._transport.send([frames.cancel(self.number, consumer_tag)])

    def flush(self) -> None:
        """Send what was collected."""
        with self._lock:
            self._flush()

    def end(self) -> None:
        """The channel is gone."""
        self.closing()
        self._transport.reader.detach(self.number)
        self.scratch.abandon()

    # ---- on the loop: while the consumer is exchanged for another

    def hold(self) -> None:
        """Tell the broker of nothing that is settled, so that it sends no more than the prefetch."""
        with self._lock:
            self._flush()
            self._is_held = True
            self._held_at = self._last_tag
            in_hand = self._acks.unsettled(0)
            self._held_in_hand = sum(tag > self._began_at for tag in in_hand)

    def release(self) -> None:
        """Tell it of all that was settled meanwhile."""
        with self._lock:
            self._is_held = False
            self._flush()

    def begin_anew(self) -> None:
        """What comes from now on is another consumer's."""
        self._began_at = self._last_tag
        self.release()

    @property
    def taken(self) -> int:
        """Messages of the consumer that the broker takes to be in hand, while it is told of nothing."""
        return self._held_in_hand + self._last_tag - self._held_at

    @property
    def _last_tag(self) -> int:
        return 0 if self.latest is None else self.latest.tag

    # ---- sending

    def _send_or_linger(self) -> None:
        if len(self._publishes) + self._acks.pending >= self.burst or self._inbox.empty():
            self._flush()
        elif not self._lingering:
            self._lingering = True
            self._link.call(self._linger)

    def _linger(self) -> None:
        self._link.later(LINGER, self._on_lingered)

    def _on_lingered(self) -> None:
        with self._lock:
            waiting = self.is_open and bool(self._publishes or self._acks.pending)
            self._flush()
            self._lingering = waiting
        if waiting:
            self._linger()

    def _flush(self) -> None:
        """Publishes first, so that no reply can be lost behind its ack; rejects before the acks that
        cover their tags (`Acks.take`)."""
        if not self.is_open:
            return
        burst, self._publishes = self._publishes, []
        if self._is_held:
            self._transport.send(burst)
            return
        if self._rejects:
            burst += self._rejects
            self._rejects = []
        if self._acks.pending:
            number = self.number
            burst += [frames.ack(number, tag, multiple) for tag, multiple in self._acks.take()]
        self._transport.send(burst)
