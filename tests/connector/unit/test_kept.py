"""Channels that client and publisher keep open on a connection: one at a time, and again after each loss."""

from __future__ import annotations

import pytest
from mq_connector import Client, Connection, Publisher
from mq_connector import client as client_module
from mq_connector import publisher as publisher_module
from pika import spec

from .fake_broker import PATIENCE, BrokerEnd, broker
from .test_client import answer_all_on_channel, ready, requested


def test_a_channel_that_is_closed_before_it_was_of_use_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "_CHANNEL_PAUSE", 0.01)

    def script(peer: BrokerEnd) -> None:
        peer.open()
        peer.open_channel()
        peer.expect(spec.Confirm.Select)
        peer.close_channel(1, 541, "INTERNAL_ERROR")
        channel = peer.open_channel()
        peer.confirm(channel)
        peer.publish()
        peer.method(channel, spec.Basic.Ack(1, False))
        peer.farewell()

    with broker(script) as server, Publisher(Connection([server.parameters()])) as publisher:
        publisher.publish("", "queue", b"x").result(PATIENCE)


def test_a_channel_that_is_lost_twice_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's words cross ours: it cancels, we give up the channel, and so does it."""
    monkeypatch.setattr(client_module, "_CHANNEL_PAUSE", 0.05)

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        requested(peer)
        peer.method(channel, spec.Basic.Cancel(peer.consumer_tag, True))
        peer.method(channel, spec.Basic.Cancel(peer.consumer_tag, True))
        peer.expect(spec.Channel.Close)
        peer.method(channel, spec.Channel.CloseOk())
        answer_all_on_channel(peer)  # where a second `channel.open` would be in the way

    with broker(script) as server, Client(Connection([server.parameters()])) as client:
        assert client.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
