"""The asking side: a broker that refuses the login, a channel, or the reply queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector.client import Client
from mq_connector.connection import Connection
from mq_connector.connection.address import Address
from mq_connector.errors import (
    ConfigurationError,
    RequestTimeout,
    StartError,
)
from pika import spec

from .fake_broker import PATIENCE, BrokerEnd, broker
from .members import Listener, on_loop
from .replying import (
    Ask,
    answer_all,
    answer_all_on_channel,
    client,
    locked_queue,
    ready,
    refused_login,
    refused_queue,
    reply,
    requested,
)

__all__ = ["client"]


@pytest.mark.parametrize(
    ("script", "words"), [(refused_login, "refuses user"), (refused_queue, "405 RESOURCE_LOCKED")]
)
def test_a_broker_that_says_no_ends_this_request_and_those_after_it(
    client: Ask, script: Callable[[BrokerEnd], None], words: str
) -> None:
    with broker(script) as server:
        asking = client(server)
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(StartError, match=words):
                asking.request("input", {}, timeout=PATIENCE)
            assert time.monotonic() - began < PATIENCE / 2
        asking.close()


@pytest.mark.parametrize("no", [refused_login, locked_queue])
def test_a_no_after_a_yes_is_taken_for_a_passing_one(
    client: Ask, no: Callable[[BrokerEnd], None]
) -> None:
    """A broker that is starting refuses logins; one that hasn't noticed a loss, our own queue."""

    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    with broker(lose, no, no, answer_all) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        asking.close()


def test_a_shared_reply_queue_that_goes_as_we_come_is_made_again(client: Ask) -> None:
    """Who else had it leaves, and deletes it, after we have declared it and before we consume it."""

    def deleted(peer: BrokerEnd) -> None:
        peer.open()
        channel = peer.open_channel()
        peer.confirm(channel)
        declared = peer.expect(spec.Queue.Declare)
        peer.method(channel, spec.Queue.DeclareOk(declared.queue, 0, 0))
        peer.expect(spec.Basic.Consume)
        peer.close_channel(channel, 404, "NOT_FOUND - no queue 'replies'")
        answer_all_on_channel(peer)

    with broker(deleted) as server:
        asking = client(server, reply_queue="replies", exclusive=False, shared=True)
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        asking.close()


def test_a_time_out_says_that_the_reply_queue_is_locked(client: Ask) -> None:
    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    with broker(lose, locked_queue, BrokerEnd.farewell) as server:
        asking = client(server)
        with pytest.raises(
            RequestTimeout, match=r"within 2 s: reply queue .*: 405 RESOURCE_LOCKED"
        ):
            asking.request("input", {}, timeout=2)
        asking.close()


def test_a_locked_queue_is_not_taken_for_a_denied_one(client: Ask) -> None:
    """Exclusive, it would be out of the services' reach, which declare it as well."""
    declared: list[bool] = []

    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    def accept(peer: BrokerEnd) -> None:
        channel, method = ready(peer)
        declared.append(method.exclusive)
        reply(peer, channel, {"message_id": requested(peer)[1]["message_id"]})
        peer.farewell()

    with broker(lose, locked_queue, accept) as server:
        asking = client(server, exclusive=False)
        asking.request("input", {}, timeout=PATIENCE)
        asking.close()
    assert declared == [False]


def test_where_all_channels_are_in_use_the_request_is_refused_in_words(client: Ask) -> None:
    def few(peer: BrokerEnd) -> None:
        peer.channel_max = 1
        peer.open()
        peer.open_channel()
        peer.farewell()

    with broker(few) as server:
        asking = client(server)
        neighbour = Listener(asking.connection).join()
        neighbour.wait(1)
        link = neighbour.link
        assert link is not None
        on_loop(asking.connection, lambda: link.channel(lambda _: None))
        with pytest.raises(StartError, match="530 the broker allows 1 channels"):
            asking.request("input", {}, PATIENCE)
        assert neighbour.events == ["open"], "its neighbours go on"
        asking.close()
        neighbour.quit()


def test_where_transient_queues_are_denied_the_reply_queue_becomes_exclusive(client: Ask) -> None:
    def deny(peer: BrokerEnd) -> None:
        peer.open()
        channel = peer.open_channel()
        peer.confirm(channel)
        assert not peer.expect(spec.Queue.Declare).exclusive
        peer.close(541, "INTERNAL_ERROR - feature is deprecated")

    def accept(peer: BrokerEnd) -> None:
        channel, declared = ready(peer)
        assert declared.exclusive
        reply(peer, channel, {"message_id": requested(peer)[1]["message_id"]})
        peer.farewell()

    with broker(deny, accept) as server:
        asking = client(server, exclusive=False)
        asking.request("input", {})
        asking.close()


def test_a_loss_while_the_reply_queue_is_declared_leaves_it_open_to_services(client: Ask) -> None:
    """Only the broker's word says that it is denied."""
    declared: list[bool] = []

    def lose(peer: BrokerEnd) -> None:
        peer.open()
        channel = peer.open_channel()
        peer.confirm(channel)
        peer.expect(spec.Queue.Declare)

    def accept(peer: BrokerEnd) -> None:
        channel, method = ready(peer)
        declared.append(method.exclusive)
        reply(peer, channel, {"message_id": requested(peer)[1]["message_id"]})
        peer.farewell()

    with broker(lose, accept) as server:
        asking = client(server, exclusive=False)
        asking.request("input", {}, timeout=PATIENCE)
        asking.close()
    assert declared == [False]


def test_a_configuration_that_lacks_something_is_told_to_who_asks() -> None:
    def parameters() -> Any:
        raise ConfigurationError("no user")

    with Client(Connection(Address(parameters))) as asking:
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                asking.request("input", {})
        assert not asking._requests.ids(), "nothing is kept of them"
