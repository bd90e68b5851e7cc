"""pika's names on the channel of a callback: each means something, or says what to use instead."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pika.channel
import pytest
from mq_connector.consumer.channel import Channel
from mq_connector.consumer.channel.instead import INSTEAD
from mq_connector.errors import ChannelError, MQError, NotInCallback
from mq_connector.testing import Harness
from pika.adapters.blocking_connection import BlockingChannel
from waiting import eventually

from .test_channel import Setup, waits


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


#: What instances have beside what their classes have.
SET_BY_PIKA = {"callbacks", "flow_active", "channel_number", "connection"}
NAMES = sorted(public(BlockingChannel) | public(pika.channel.Channel) | SET_BY_PIKA)
THERE = [name for name in NAMES if name not in INSTEAD]


def given() -> Any:
    """The channel of a delivery."""
    setup = Setup()
    setup.deliver(1)
    return Channel(setup.opened, setup.outbox, setup.process, setup.inbox.get())


def recorded() -> Any:
    """The channel of a delivery without a broker."""
    channels: list[Any] = []
    Harness(lambda channel, *_: channels.append(channel)).send({})
    return channels[0]


both = pytest.mark.parametrize("make", [given, recorded])


def test_pika_has_as_many_names_as_were_looked_at() -> None:
    """With another version of pika, look at what has come."""
    assert len(NAMES) >= 48
    assert sorted(INSTEAD.keys() - set(NAMES)) == []


@both
@pytest.mark.parametrize("name", THERE)
def test_what_is_there_can_be_had(make: Any, name: str) -> None:
    getattr(make(), name)


@both
@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_what_is_not_there_says_what_to_use_instead(make: Any, name: str) -> None:
    channel = make()
    with pytest.raises(NotInCallback, match=rf"^a callback's channel has no {name}: \w.{{20,}}"):
        getattr(channel, name)
    with pytest.raises(MQError):
        getattr(channel, name)()
    assert not hasattr(channel, name)


@pytest.mark.parametrize("theirs", [BlockingChannel, pika.channel.Channel])
def test_what_is_there_takes_what_pikas_takes(theirs: type) -> None:
    """The callbacks of the asynchronous one stand behind all others."""
    seen = 0
    for name in sorted({*THERE} - {"basic_get", "confirm_delivery"}):
        method = getattr(theirs, name, None)
        if not inspect.isfunction(method):
            continue
        seen += 1
        wanted = list(inspect.signature(method).parameters.values())
        found = list(inspect.signature(getattr(Channel, name)).parameters.values())
        names = [each.name for each in found]
        assert names[: len(wanted)] == [each.name for each in wanted], name
        needed = {each.name for each in wanted if each.default is each.empty}
        assert {each.name for each in found if each.default is each.empty} <= needed, name
    assert seen >= 15


@both
def test_who_wants_to_be_told_of_each_confirm_is_told_what_to_use_instead(make: Any) -> None:
    with pytest.raises(NotInCallback, match="dead-letters"):
        make().confirm_delivery(print)


CALLS = [
    lambda channel, told: channel.queue_declare("q", callback=told),
    lambda channel, told: channel.queue_bind("q", "e", callback=told),
    lambda channel, told: channel.queue_unbind("q", "e", callback=told),
    lambda channel, told: channel.queue_delete("q", callback=told),
    lambda channel, told: channel.queue_purge("q", callback=told),
    lambda channel, told: channel.exchange_declare("e", callback=told),
    lambda channel, told: channel.exchange_delete("e", callback=told),
    lambda channel, told: channel.exchange_bind("e", "f", callback=told),
    lambda channel, told: channel.exchange_unbind("e", "f", callback=told),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_callback_is_told_of_the_answer_before_its_method_returns(call: Any) -> None:
    setup = Setup()
    told: list[Any] = []
    assert waits(setup, lambda: call(setup.channel, told.append))
    assert [each.method.NAME for each in told] == ["Queue.DeclareOk"]


@pytest.mark.parametrize("call", CALLS)
def test_the_harness_tells_it_too(call: Any) -> None:
    told: list[Any] = []
    call(recorded(), told.append)
    assert len(told) == 1


def test_a_callback_is_told_nothing_where_the_broker_refuses() -> None:
    setup = Setup()
    told: list[Any] = []
    raised: list[ChannelError] = []

    def delete() -> None:
        try:
            setup.channel.queue_delete("q", callback=told.append)
        except ChannelError as error:
            raised.append(error)

    thread = threading.Thread(target=delete, daemon=True)
    thread.start()
    eventually(lambda: setup.link.calls)
    setup.link.run_calls()
    setup.link.amqp.open().refuse(403, "ACCESS_REFUSED")
    thread.join(60)
    assert [each.code for each in raised] == [403]
    assert not told


def test_a_name_that_nobody_knows_is_an_ordinary_error() -> None:
    channel = given()
    with pytest.raises(AttributeError) as caught:
        _ = channel.tx_selects
    assert not isinstance(caught.value, MQError)


def test_the_names_that_are_there_cost_nothing_for_those_that_are_not() -> None:
    """Python looks up each name more slowly in a class that has one of these."""
    for cls in Channel.__mro__[:-1]:
        assert not {"__getattr__", "__getattribute__", "__dict__"} & set(vars(cls))


def test_the_states_are_pikas() -> None:
    channel = given()
    for name in ("CLOSED", "OPENING", "OPEN", "CLOSING"):
        assert getattr(channel, name) == getattr(pika.channel.Channel, name)
    assert (channel.is_opening, channel.is_closing, channel.flow_active) == (False, False, True)
    assert int(channel) == channel.channel_number == 5


def test_it_names_the_consumer_that_the_message_came_to() -> None:
    assert given().consumer_tags == ["ctag"]
    assert Setup().channel.consumer_tags == []


@both
def test_there_is_nothing_to_do_for_confirms(make: Any) -> None:
    assert make().confirm_delivery() is None


@both
def test_a_message_that_would_have_to_be_settled_elsewhere_is_not_got(make: Any) -> None:
    for options in ({}, {"auto_ack": False}):
        with pytest.raises(NotInCallback, match="auto_ack=True"):
            make().basic_get("q", **options)


def test_exchanges_are_bound_to_each_other_on_another_channel() -> None:
    setup = Setup()
    bound = setup.channel.exchange_bind("destination", "source", "key")
    setup.channel.exchange_unbind(destination="destination", source="source")
    setup.link.run_calls()
    scratch = setup.link.amqp.open()
    scratch.answer()
    scratch.answer()
    assert bound.method
    assert scratch.calls == [
        ("exchange_bind", ("destination", "source", "key", None)),
        ("exchange_unbind", ("destination", "source", "", None)),
    ]
    assert setup.transport.bursts == []
