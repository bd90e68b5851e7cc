"""The channel that callbacks get: what it sends, when, in which order, and what it keeps to itself."""

from __future__ import annotations

import logging
from queue import SimpleQueue
from typing import Any

import pika
import pytest
from mq_connector.consumer import Channel
from mq_connector.errors import ChannelError, NotConnected
from pika.spec import Basic

from .fakes import FakeConnection


class Setup:
    """A channel on a connection that the test plays the broker of."""

    def __init__(self, burst: int = 4, version: tuple[int, ...] = (3, 13, 0)) -> None:
        self.connection = FakeConnection(version)
        self.transport = self.connection.transport
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.elsewhere: list[Any] = []
        amqp: Any = pika.frame.Method(5, None)  # has a channel_number
        connection: Any = self.connection
        self.channel = Channel(connection, amqp, self.inbox, burst, self.elsewhere.append)

    def deliver(self, count: int) -> None:
        for tag in range(1, count + 1):
            method = Basic.Deliver("ctag", tag, False, "", "input")
            self.channel.deliver(method, pika.BasicProperties(), b"")

    def busy(self) -> None:
        """There are deliveries that no worker has taken."""
        self.inbox.put(None)

    def idle(self) -> None:
        while not self.inbox.empty():
            self.inbox.get()


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_a_publish_leaves_at_once_while_nothing_else_waits(setup: Setup) -> None:
    setup.channel.basic_publish("logs", "key", "text", pika.BasicProperties(expiration="1000"))
    [[method, header, body]] = setup.transport.bursts
    assert (method.channel_number, method.method.exchange, method.method.routing_key) == (
        5,
        "logs",
        "key",
    )
    assert not method.method.mandatory
    assert header.properties.expiration == "1000"
    assert body.fragment == b"text"


def test_what_goes_to_the_default_exchange_is_mandatory(setup: Setup) -> None:
    setup.channel.basic_publish("", "reply", b"body")
    assert setup.transport.bursts[0][0].method.mandatory


def test_a_reply_leaves_before_its_ack(setup: Setup) -> None:
    setup.deliver(2)
    setup.channel.basic_publish("", "reply", b"")
    setup.channel.settle(1)
    assert setup.transport.bursts == []
    setup.idle()
    setup.channel.settle(2)
    assert setup.transport.methods == [["Basic.Publish", "Basic.Ack"]]


def test_while_deliveries_wait_a_burst_is_collected_until_it_is_worth_sending(setup: Setup) -> None:
    setup.deliver(3)
    setup.channel.basic_publish("", "reply", b"")
    setup.channel.settle(1)
    setup.channel.basic_publish("", "reply", b"")
    assert setup.transport.bursts == []
    setup.channel.settle(2)
    assert setup.transport.methods == [["Basic.Publish", "Basic.Publish", "Basic.Ack"]]
    ack = setup.transport.bursts[0][-1].method
    assert (ack.delivery_tag, ack.multiple) == (2, True)


def test_what_was_collected_leaves_after_five_milliseconds(setup: Setup) -> None:
    setup.busy()
    setup.channel.basic_publish("", "reply", b"")
    setup.channel.basic_publish("", "reply", b"")
    assert len(setup.connection.calls) == 1, "one wake-up for a burst"
    setup.connection.run_calls()
    assert [seconds for seconds, _ in setup.connection.timers] == [0.005]
    setup.connection.run_timers()
    assert setup.transport.methods == [["Basic.Publish", "Basic.Publish"]]


def test_without_anything_to_send_the_timer_is_not_set_again(setup: Setup) -> None:
    setup.busy()
    setup.channel.basic_publish("", "reply", b"")
    setup.connection.run_calls()
    setup.connection.run_timers()
    setup.connection.run_timers()
    assert setup.connection.timers == []
    setup.channel.basic_publish("", "reply", b"")
    assert len(setup.connection.calls) == 1, "the next one sets it"


def test_a_rejection_leaves_at_once_behind_the_publishes_and_before_the_acks(setup: Setup) -> None:
    setup.deliver(3)
    setup.channel.basic_publish("", "reply", b"")
    setup.channel.basic_ack(1)
    setup.channel.basic_ack(3)
    setup.channel.basic_reject(2, requeue=False)
    assert setup.transport.methods == [["Basic.Publish", "Basic.Reject", "Basic.Ack"]]
    *_, reject, ack = setup.transport.bursts[0]
    assert (reject.method.delivery_tag, reject.method.requeue) == (2, False)
    assert (ack.method.delivery_tag, ack.method.multiple) == (3, True)


def test_nack_of_many_rejects_each_that_is_outstanding(setup: Setup) -> None:
    setup.deliver(4)
    setup.channel.basic_ack(2)
    setup.channel.basic_nack(3, multiple=True, requeue=True)
    names = [(each.method.NAME, each.method.delivery_tag) for each in setup.transport.bursts[0]]
    assert names == [("Basic.Nack", 1), ("Basic.Nack", 3), ("Basic.Ack", 2)]
    assert setup.channel.outstanding == 1


def test_settling_twice_sends_one_frame(setup: Setup) -> None:
    setup.deliver(1)
    setup.idle()
    setup.channel.basic_ack(1)
    setup.channel.basic_ack(1)
    setup.channel.basic_nack(1)
    setup.channel.basic_reject(1)
    setup.channel.settle(1)
    assert setup.transport.methods == [["Basic.Ack"]]
    assert setup.channel.is_settled(1)


def test_deliveries_reach_the_inbox_with_the_channel_they_came_on(setup: Setup) -> None:
    setup.deliver(1)
    channel, method, properties, body = setup.inbox.get()
    assert channel is setup.channel
    assert (method.delivery_tag, properties, body) == (1, pika.BasicProperties(), b"")
    assert setup.channel.outstanding == 1
    assert not setup.channel.is_settled(1)


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
    setup.connection.run_calls()
    scratch = setup.connection.amqp.open()
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
    version: tuple[int, ...], options: dict[str, bool], apart: bool
) -> None:
    setup = Setup(version=version)
    setup.channel.queue_declare("q", **options)
    setup.connection.run_calls()
    assert len(setup.connection.siblings) == apart
    assert setup.connection.amqp.opening == (not apart)


# ---- failures: the channel is gone


def test_a_publish_on_a_channel_that_is_gone_goes_elsewhere(setup: Setup) -> None:
    properties = pika.BasicProperties(expiration="1000")
    setup.channel.closing()
    setup.channel.basic_publish("", "reply", "body", properties)
    assert setup.elsewhere == [("", "reply", b"body", properties, True)]
    assert setup.transport.bursts == []
    assert setup.channel.is_closed
    assert "closed" in repr(setup.channel)


def test_nothing_is_settled_on_a_channel_that_is_gone(setup: Setup) -> None:
    """A tag means another message on the next channel."""
    setup.deliver(3)
    setup.channel.basic_ack(1)
    setup.channel.end()
    setup.channel.basic_ack(2)
    setup.channel.settle(2)
    setup.channel.basic_reject(3)
    setup.channel.basic_nack(0, multiple=True)
    setup.channel.flush()
    assert setup.transport.bursts == []
    assert setup.transport.attached == {}


def test_declaring_on_a_channel_that_is_gone_fails_at_once(setup: Setup) -> None:
    setup.channel.end()
    with pytest.raises(NotConnected, match="declaring queue 'q'"):
        setup.channel.queue_declare("q").wait(0)
    assert setup.connection.calls == []


def test_declarations_that_wait_when_the_channel_goes_fail(setup: Setup) -> None:
    waiting = setup.channel.queue_declare("q")
    setup.connection.run_calls()
    setup.channel.end()
    with pytest.raises(NotConnected):
        waiting.wait(0)


def test_the_timer_of_a_channel_that_is_gone_stops(setup: Setup) -> None:
    setup.busy()
    setup.channel.basic_publish("", "reply", b"")
    setup.connection.run_calls()
    setup.channel.end()
    setup.connection.run_timers()
    assert setup.connection.timers == []


def test_a_publisher_that_waits_for_room_goes_on_when_the_channel_is_gone(setup: Setup) -> None:
    def no_room() -> bool:
        setup.channel.closing()
        return False

    setup.transport.room = no_room
    setup.channel.basic_publish("", "reply", b"")
    assert len(setup.elsewhere) == 1


def test_the_loop_never_waits_for_room_that_it_alone_can_make(setup: Setup) -> None:
    setup.transport.room = lambda: pytest.fail("waited on the loop")
    setup.channel.publish(("", "reply", b"", None, True))
    assert setup.transport.methods == [["Basic.Publish"]]


def test_a_name_that_is_too_long_fails_in_the_callback_and_nowhere_else(setup: Setup) -> None:
    with pytest.raises(ValueError, match="routing key"):
        setup.channel.basic_publish("", "q" * 256, b"")
    assert setup.transport.bursts == []


def test_what_can_t_be_encoded_is_the_caller_s_to_hear_of_also_where_it_would_wait(
    setup: Setup,
) -> None:
    setup.channel._waiting = {"reply"}
    with pytest.raises(AssertionError):
        setup.channel.basic_publish("", "reply", b"", pika.BasicProperties(expiration=1000))  # type: ignore[arg-type]
    assert setup.elsewhere == []


def test_what_waits_keeps_the_properties_that_it_was_published_with(setup: Setup) -> None:
    setup.channel._waiting = {"reply"}
    properties = pika.BasicProperties(message_id="1")
    setup.channel.basic_publish("", "reply", b"", properties)
    properties.message_id = "2"
    setup.channel.basic_publish("", "reply", b"", properties)
    assert [message[3].message_id for message in setup.elsewhere] == ["1", "2"]


@pytest.mark.parametrize("name", ["a\nb", "\r", "a\r\n"])
def test_a_queue_s_name_with_a_line_break_is_refused_before_pika_waits_for_ever(
    setup: Setup, name: str
) -> None:
    """The broker takes line breaks out of names, so the answer would be to another question."""
    with pytest.raises(ChannelError, match="line break"):
        setup.channel.queue_declare(name).wait(0)
    assert setup.connection.calls == []
