"""The channel that callbacks get: pika's methods, and what it makes of them."""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Callable
from decimal import Decimal
from queue import SimpleQueue
from typing import Any

import pika
import pytest
from mq_connector.consumer import Channel
from mq_connector.consumer.opened import Confirms, Delivery, OpenedChannel, Sizes
from mq_connector.consumer.outbox import Outbox
from mq_connector.errors import ChannelError, NotConnected
from mq_connector.fork import Process
from pika.spec import Basic

from .fakes import FakeAMQP, FakeLink, be_a_child


class Setup:
    """A channel on a connection that the test plays the broker of."""

    def __init__(self, version: tuple[int, ...] = (3, 13, 0)) -> None:
        self.link = FakeLink(version)
        self.transport = self.link.transport
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        link: Any = self.link
        amqp: Any = pika.frame.Method(5, None)  # has a channel_number
        self.opened = OpenedChannel(link, amqp, self.inbox, Sizes(1))
        self.outbox = Outbox(link)
        self.process = Process()
        self.channel = Channel(self.opened, self.outbox, self.process)

    def deliver(self, count: int) -> None:
        for tag in range(1, count + 1):
            method = Basic.Deliver("ctag", tag, False, "", "input")
            self.opened.deliver(method, pika.BasicProperties(), b"")

    def connect_again(self) -> None:
        """There is another channel, on which what was held leaves."""
        link: Any = self.link
        amqp: Any = pika.frame.Method(6, None)
        self.outbox.on_channel(OpenedChannel(link, amqp, SimpleQueue(), Sizes(1)), lambda _: None)


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_what_goes_to_the_default_exchange_is_mandatory(setup: Setup) -> None:
    setup.channel.basic_publish("", "reply", b"body")
    assert setup.transport.bursts[0][0].method.mandatory


def test_a_body_may_be_text_as_with_pika(setup: Setup) -> None:
    setup.channel.basic_publish("", "reply", "ü", pika.BasicProperties(expiration="1000"))
    [[method, header, body]] = setup.transport.bursts
    assert (method.method.exchange, method.method.routing_key) == ("", "reply")
    assert header.properties.expiration == "1000"
    assert body.fragment == "ü".encode()


def test_it_says_which_channel_it_is_and_whether_that_is_open(setup: Setup) -> None:
    assert setup.channel.connection is setup.link  # type: ignore[comparison-overlap]
    assert setup.channel.channel_number == 5
    assert (setup.channel.is_open, setup.channel.is_closed) == (True, False)
    assert repr(setup.channel) == "<Channel number=5 open>"
    setup.opened.closing()
    assert (setup.channel.is_open, setup.channel.is_closed) == (False, True)
    assert repr(setup.channel) == "<Channel number=5 closed>"


def test_settling_twice_sends_one_frame(setup: Setup) -> None:
    setup.deliver(1)
    setup.inbox.get()
    setup.channel.basic_ack(1)
    setup.channel.basic_ack(1)
    setup.channel.basic_nack(1)
    setup.channel.basic_reject(1)
    assert setup.transport.methods == [["Basic.Ack"]]


def test_nack_of_many_rejects_each_that_is_outstanding(setup: Setup) -> None:
    setup.opened.collected.burst = 10
    setup.deliver(4)
    setup.channel.basic_ack(2)
    setup.channel.basic_nack(3, multiple=True, requeue=True)
    names = [
        (each.method.NAME, each.method.delivery_tag)
        for burst in setup.transport.bursts
        for each in burst
    ]
    assert names == [("Basic.Nack", 1), ("Basic.Ack", 2), ("Basic.Nack", 3)]
    assert setup.opened.outstanding == 1


def test_what_is_acknowledged_before_its_confirms_are_there_waits_for_them(setup: Setup) -> None:
    setup.deliver(1)
    delivery: Delivery = setup.inbox.get()
    delivery.confirms = Confirms(setup.link.call)
    delivery.confirms.expect()
    channel = Channel(setup.opened, setup.outbox, Process(), delivery)
    channel.basic_ack(1)
    setup.link.run_calls()
    assert setup.transport.bursts == []
    delivery.confirms.outcome(None)
    setup.link.run_calls()
    assert setup.transport.methods == [["Basic.Ack"]]


# ---- what the broker may refuse


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda channel: channel.queue_declare("q"), "queue_declare"),
        (lambda channel: channel.queue_bind("q", "e", "k"), "queue_bind"),
        (lambda channel: channel.queue_unbind("q", "e", "k"), "queue_unbind"),
        (lambda channel: channel.queue_delete("q"), "queue_delete"),
        (lambda channel: channel.queue_purge("q"), "queue_purge"),
        (lambda channel: channel.exchange_declare("e", "fanout"), "exchange_declare"),
        (lambda channel: channel.exchange_delete("e"), "exchange_delete"),
    ],
)
def test_what_may_be_refused_runs_on_another_channel(
    setup: Setup, call: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    result, refused = call(setup.channel), call(setup.channel)
    setup.link.run_calls()
    scratch = setup.link.amqp.open()
    scratch.answer()
    assert result.method.NAME == "Queue.DeclareOk"
    with caplog.at_level(logging.WARNING):
        scratch.refuse(403, "ACCESS_REFUSED")
    with pytest.raises(ChannelError, match=r"^403 ACCESS_REFUSED$"):
        refused.wait()
    assert [each for each, _ in scratch.calls] == [name, name]
    assert "403 ACCESS_REFUSED" in caplog.text
    assert setup.channel.is_open
    assert setup.transport.bursts == []


@pytest.mark.parametrize(
    ("version", "options", "apart"),
    [
        ((4, 2, 9), {}, False),
        ((4, 3, 0), {}, True),
        ((4, 3, 0), {"durable": True}, False),
        ((4, 3, 0), {"exclusive": True}, False),
        ((4, 3, 0), {"passive": True}, False),
    ],
)
def test_a_transient_queue_is_declared_on_a_connection_apart_where_it_may_cost_one(
    version: tuple[int, ...], options: dict[str, Any], apart: bool
) -> None:
    setup = Setup(version=version)
    setup.channel.queue_declare("q", **options)
    setup.link.run_calls()
    assert len(setup.link.siblings) == apart
    assert setup.link.amqp.opening == (not apart)


def test_consumers_on_one_connection_share_the_one_apart() -> None:
    setup = Setup(version=(4, 3, 0))
    link: Any = setup.link
    other: Any = pika.frame.Method(6, None)
    neighbour = Channel(
        OpenedChannel(link, other, SimpleQueue(), Sizes(1)), setup.outbox, Process()
    )
    setup.channel.queue_declare("q")
    neighbour.queue_declare("q")
    setup.link.run_calls()
    assert len(setup.link.siblings) == 1


def waits(setup: Setup, function: Callable[[], object]) -> bool:
    """Whether a call waits until the broker has answered what was asked for before; it is answered then."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(0.1)
    waiting = thread.is_alive()
    setup.link.run_calls()
    while setup.link.amqp.opening:
        setup.link.amqp.open()
    for scratch in setup.link.amqp.channels:
        while scratch.waiting:
            scratch.answer()
    thread.join(60)
    assert not thread.is_alive()
    return waiting


def test_what_goes_to_an_exchange_waits_for_what_was_asked_for_before(setup: Setup) -> None:
    """The broker keeps no order between channels: it may have yet to hear of the exchange."""
    sent: list[str] = []
    setup.outbox.publish = lambda _, message, *__: sent.append(message.exchange)  # type: ignore[method-assign]
    channel = setup.channel
    channel.exchange_declare("e", "fanout")
    assert not waits(setup, lambda: channel.basic_publish("", "q", b"")), (
        "a reply waits for nothing"
    )
    channel.queue_bind("q", "e")
    assert waits(setup, lambda: channel.basic_publish("e", "", b""))
    assert not waits(setup, lambda: channel.basic_publish("e", "", b"")), "it is done by now"
    assert sent == ["", "e", "e"]


def test_a_refusal_is_waited_for_as_well(setup: Setup) -> None:
    setup.outbox.publish = lambda *_: None  # type: ignore[method-assign]
    setup.channel.exchange_declare("e", "fanout")
    setup.link.run_calls()
    scratch = setup.link.amqp.open()
    publish = threading.Thread(target=setup.channel.basic_publish, args=("e", "", b""), daemon=True)
    publish.start()
    scratch.refuse(403, "ACCESS_REFUSED")
    publish.join(60)
    assert not publish.is_alive()


def test_what_is_done_on_one_channel_waits_for_what_is_done_on_another() -> None:
    """On 4.3, where transient queues are declared on a connection of their own."""
    setup = Setup(version=(4, 3, 0))
    setup.channel.queue_declare("q")
    setup.link.run_calls()
    [(on_open, _)] = setup.link.siblings
    bind = threading.Thread(target=setup.channel.queue_bind, args=("q", "e"), daemon=True)
    bind.start()
    bind.join(0.1)
    assert bind.is_alive() and not setup.link.calls
    second = FakeAMQP()
    on_open(second)
    second.open().answer()
    bind.join(60)
    assert not bind.is_alive()
    setup.link.run_calls()
    assert [name for name, _ in setup.link.amqp.open().calls] == ["queue_bind"]


def test_nothing_is_waited_for_on_the_loop_which_alone_brings_it(setup: Setup) -> None:
    setup.outbox.publish = lambda *_: None  # type: ignore[method-assign]
    setup.link.is_own_thread = True
    setup.channel.exchange_declare("e", "fanout")
    assert not waits(setup, lambda: setup.channel.basic_publish("e", "", b""))


@pytest.mark.parametrize("name", ["a\nb", "\r", "a\r\n"])
def test_a_queue_s_name_with_a_line_break_is_refused_before_pika_waits_for_ever(
    setup: Setup, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker takes line breaks out of names, so the answer would be to another question."""
    result = setup.channel.queue_declare(name)
    setup.link.run_calls()
    channel = setup.link.amqp.open()
    with pytest.raises(ChannelError, match="line break"):
        result.wait(0)
    assert channel.calls == []
    assert f"declaring queue {name!r}: 400 ValueError" in caplog.text, (
        "it is told to who doesn't wait"
    )


# ---- failures: the channel is gone


def test_a_publish_on_a_channel_that_is_gone_leaves_on_the_next(setup: Setup) -> None:
    properties = pika.BasicProperties(expiration="1000")
    setup.opened.closing()
    setup.channel.basic_publish("", "reply", "body", properties)
    assert setup.transport.bursts == []
    setup.connect_again()
    [[method, header, body]] = setup.transport.bursts
    assert (method.channel_number, method.method.routing_key, method.method.mandatory) == (
        6,
        "reply",
        True,
    )
    assert header.properties.expiration == "1000"
    assert body.fragment == b"body"


def test_nothing_is_settled_on_a_channel_that_is_gone(setup: Setup) -> None:
    """A tag means another message on the next channel."""
    setup.deliver(3)
    setup.opened.end()
    setup.channel.basic_ack(2)
    setup.channel.basic_reject(3)
    setup.channel.basic_nack(0, multiple=True)
    assert setup.transport.bursts == []


def test_declaring_on_a_channel_that_is_gone_fails_at_once(setup: Setup) -> None:
    setup.opened.end()
    with pytest.raises(NotConnected, match="declaring queue 'q'"):
        setup.channel.queue_declare("q").wait(0)
    assert setup.link.calls == []


def test_declarations_that_wait_when_the_channel_goes_fail(setup: Setup) -> None:
    waiting = setup.channel.queue_declare("q")
    setup.link.run_calls()
    setup.opened.end()
    with pytest.raises(NotConnected):
        waiting.wait(0)


def test_a_publisher_that_waits_for_room_goes_on_when_the_channel_is_gone(setup: Setup) -> None:
    def no_room() -> bool:
        setup.opened.closing()
        return False

    setup.transport.room = no_room
    setup.channel.basic_publish("", "reply", b"")
    assert setup.transport.bursts == []
    setup.connect_again()
    assert setup.transport.methods == [["Basic.Publish"]]


def test_a_name_that_is_too_long_fails_in_the_callback_and_nowhere_else(setup: Setup) -> None:
    with pytest.raises(ValueError, match="routing key"):
        setup.channel.basic_publish("", "q" * 256, b"")
    setup.connect_again()
    assert setup.transport.bursts == []


def test_a_forked_child_publishes_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    be_a_child(monkeypatch)
    with pytest.raises(NotConnected, match="forked"):
        setup.channel.basic_publish("", "reply", b"")
    assert setup.transport.bursts == []


@pytest.mark.parametrize("tag", [1.0, Decimal(1), "1", None])
def test_a_tag_that_is_no_whole_number_settles_nothing(setup: Setup, tag: Any) -> None:
    """It equals one, and would be found out only as it is sent, with the acks of others."""
    setup.deliver(2)
    with pytest.raises(TypeError):
        setup.channel.basic_ack(tag)
    for number in (1, 2):
        setup.channel.basic_ack(number)
    setup.opened.flush()
    acks = [each.method for burst in setup.transport.bursts for each in burst]
    assert max(each.delivery_tag for each in acks) == 2
    assert setup.opened.outstanding == 0


@pytest.mark.parametrize("count", [10.0, Decimal(10)])
def test_a_prefetch_that_is_no_whole_number_is_refused_where_it_is_set(
    setup: Setup, count: Any
) -> None:
    """The broker is asked for it later, where a new consumer is made."""
    with pytest.raises(TypeError):
        setup.channel.basic_qos(prefetch_count=count)
    assert setup.inbox.empty()


@pytest.mark.parametrize(
    "body", [array("d", [1.0, 2.0]), memoryview(b"abcd")[::2], bytearray(b"text")]
)
def test_a_body_of_other_bytes_leaves_as_what_it_holds(setup: Setup, body: Any) -> None:
    """The length of an array is how many numbers it holds: a frame of that size would cost the connection."""
    held = memoryview(body).tobytes()
    setup.channel.basic_publish("", "reply", body)
    [[_, header, sent]] = setup.transport.bursts
    assert (header.body_size, sent.fragment) == (len(held), held)


def test_a_body_that_waits_is_as_it_was_when_it_was_published(setup: Setup) -> None:
    body: Any = bytearray(b"first")
    setup.opened.end()
    setup.channel.basic_publish("", "reply", body)
    body[:] = b"other"
    setup.connect_again()
    [[_, _, sent]] = setup.transport.bursts
    assert sent.fragment == b"first"


@pytest.mark.parametrize("body", [None, 3, {"text": "hi"}, ["a"]])
def test_what_has_no_bytes_is_no_body(setup: Setup, body: Any) -> None:
    with pytest.raises(TypeError):
        setup.channel.basic_publish("", "reply", body)
    assert not setup.transport.bursts
