"""A callback that closes its channel: it does nothing further there, and nobody else notices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector.config import Limits
from mq_connector.consumer.channel import Channel
from mq_connector.consumer.opened import Confirms, Delivery
from mq_connector.consumer.workers import Workers
from mq_connector.consumer.workers.suspicion import Suspicion
from mq_connector.testing import Harness
from pika.exceptions import ChannelWrongStateError

from .test_channel import Setup
from .test_testing import echo


class Handled(Setup):
    """A worker that hands one delivery to a callback."""

    def __init__(self, callback: Any, ack_on_return: bool = True) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.deliver(1)
        self.delivery: Delivery = self.inbox.get()
        workers = Workers(
            Limits(),
            "test",
            callback,
            lambda delivery: Channel(self.opened, self.outbox, self.process, delivery),
            self.errors.append,
            Suspicion(),
            ack_on_return=ack_on_return,
        )
        workers.handle(self.delivery)

    def settle(self) -> list[list[str]]:
        """What has been sent when all that waits has had its time."""
        for _ in range(3):
            self.link.run_calls()
            self.link.run_timers()
        return self.transport.methods


def closing(channel: Any, *_: Any) -> None:
    channel.close()


def test_its_message_is_acknowledged_when_it_returns() -> None:
    handled = Handled(closing)
    assert handled.settle() == [["Basic.Ack"]]
    assert not handled.errors
    assert handled.opened.is_open, "the consumer has lost its channel"


def test_what_it_did_before_counts_and_a_second_close_does_nothing() -> None:
    """As a public client does with a reply, before it stores it."""
    stored: list[bytes] = []

    def store(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        channel.basic_ack(delivery_tag=method.delivery_tag)
        channel.basic_publish("", "replies", b"one")
        channel.queue_delete("mine")
        channel.close()
        channel.close()
        assert (channel.is_open, channel.is_closed) == (False, True)
        stored.append(body)

    handled = Handled(store, ack_on_return=False)
    handled.link.run_calls()
    scratch = handled.link.amqp.open()
    assert stored == [b""] and not handled.errors
    assert [name for name, _ in scratch.calls] == ["queue_delete"]
    assert handled.settle() == [["Basic.Ack"], ["Basic.Publish"]]


@pytest.mark.parametrize(
    "further",
    [
        lambda channel: channel.basic_publish("", "replies", b"one"),
        lambda channel: channel.basic_publish("exchange", "replies", b"one"),
        lambda channel: channel.basic_ack(1),
        lambda channel: channel.basic_ack(1, multiple=True),
        lambda channel: channel.basic_nack(1),
        lambda channel: channel.basic_nack(0, multiple=True),
        lambda channel: channel.basic_reject(1),
        lambda channel: channel.queue_declare("q"),
        lambda channel: channel.queue_declare("q", durable=True),
        lambda channel: channel.queue_bind("q", "e"),
        lambda channel: channel.queue_unbind("q", "e"),
        lambda channel: channel.queue_delete("q"),
        lambda channel: channel.queue_purge("q"),
        lambda channel: channel.exchange_declare("e"),
        lambda channel: channel.exchange_delete("e"),
        lambda channel: channel.exchange_bind("e", "f"),
        lambda channel: channel.exchange_unbind("e", "f"),
        lambda channel: channel.basic_get("q", auto_ack=True),
        lambda channel: channel.basic_qos(prefetch_count=1),
    ],
)
def test_what_it_does_afterwards_fails_as_with_pika(further: Any) -> None:
    setup = Setup()
    setup.deliver(1)
    channel = Channel(setup.opened, setup.outbox, setup.process, setup.inbox.get())
    channel.close()
    assert repr(channel) == "<Channel number=5 closed>"
    assert channel.connection is setup.outbox.connection
    with pytest.raises(ChannelWrongStateError, match="close"):
        further(channel)
    setup.link.run_calls()
    assert setup.transport.bursts == []
    assert setup.link.amqp.opening == 0


def test_an_error_after_it_dead_letters_the_message() -> None:
    def fail(channel: Any, *_: Any) -> None:
        channel.close()
        channel.basic_publish("", "replies", b"one")

    handled = Handled(fail)
    assert handled.settle() == [["Basic.Reject"]]
    assert isinstance(handled.errors[0], ChannelWrongStateError)


def test_without_ack_on_return_a_message_that_nobody_can_settle_any_more_comes_again() -> None:
    handled = Handled(closing, ack_on_return=False)
    handled.link.run_calls()
    assert handled.transport.methods == []
    [(seconds, _)] = handled.link.timers
    assert seconds == 1.0
    assert handled.settle() == [["Basic.Reject"]]
    assert handled.transport.bursts[0][0].method.requeue


def test_the_same_where_it_is_closed_after_the_callback() -> None:
    kept: list[Any] = []
    handled = Handled(lambda channel, *_: kept.append(channel), ack_on_return=False)
    assert handled.settle() == []
    closer = threading.Thread(target=kept[0].close)
    closer.start()
    closer.join()
    assert handled.settle() == [["Basic.Reject"]]


@pytest.mark.parametrize("settle", ["basic_ack", "basic_reject"])
def test_a_message_that_was_settled_before_does_not_come_again(settle: str) -> None:
    kept: list[Any] = []
    handled = Handled(lambda channel, *_: kept.append(channel), ack_on_return=False)
    getattr(kept[0], settle)(1)
    kept[0].close()
    [[name]] = handled.settle()
    assert name == settle.replace("basic_", "Basic.").replace("ack", "Ack").replace("rej", "Rej")


def test_an_ack_that_waits_for_a_confirm_is_sent_though_the_channel_is_closed() -> None:
    def publish(channel: Any, *_: Any) -> None:
        confirms.expect()
        channel._delivery.confirms = confirms
        channel.basic_ack(1)
        channel.close()

    def call(function: Callable[[], object]) -> None:
        function()

    confirms = Confirms(call)
    handled = Handled(publish, ack_on_return=False)
    handled.link.run_calls()
    assert handled.transport.methods == []
    confirms.outcome(None)
    assert handled.settle() == [["Basic.Ack"]]


def test_when_the_connection_is_lost_nothing_is_made_of_it() -> None:
    """The broker delivers the message again by itself."""
    kept: list[Any] = []
    handled = Handled(lambda channel, *_: kept.append(channel), ack_on_return=False)
    handled.opened.end()
    kept[0].close()
    assert handled.settle() == []
    assert not handled.errors


def test_the_harness_does_the_same() -> None:
    def close_first(channel: Any, *given: Any) -> None:
        channel.close()
        echo(channel, *given)

    def close_last(channel: Any, *given: Any) -> None:
        echo(channel, *given)
        channel.close()
        channel.close()
        assert channel.is_closed

    outcome = Harness(close_last).send({"text": "hi"})
    assert (outcome.settled, outcome.error) == ("ack", None)
    assert outcome.reply["echo"] == {"text": "hi"}
    outcome = Harness(close_first).send({"text": "hi"})
    assert outcome.settled == "dead-letter"
    assert isinstance(outcome.error, ChannelWrongStateError)
    assert outcome.reply["success"] is False
