"""Channels that client and publisher keep open on a connection: one at a time, and again after each loss."""

from __future__ import annotations

import threading

import pytest
from mq_connector import Client, Connection, Publisher
from mq_connector import client as client_module
from mq_connector import publisher as publisher_module
from mq_connector.errors import RequestTimeout
from pika import spec

from .fake_broker import PATIENCE, BrokerEnd, broker
from .members import Listener
from .replying import answer_all_on_channel, ready, requested


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


@pytest.mark.parametrize("owed", ["channel", "queue"])
def test_who_leaves_before_replies_can_come_leaves_no_channel_on_a_shared_connection(
    owed: str,
) -> None:
    has_left, is_closed = threading.Event(), threading.Event()

    def script(peer: BrokerEnd) -> None:
        peer.open()
        opening = peer.read()
        if owed == "queue":
            peer.method(opening.channel_number, spec.Channel.OpenOk())
            peer.confirm(opening.channel_number)
            declared = peer.expect(spec.Queue.Declare).queue
        assert has_left.wait(PATIENCE)
        if owed == "queue":
            peer.method(opening.channel_number, spec.Queue.DeclareOk(declared, 0, 0))
        else:
            peer.method(opening.channel_number, spec.Channel.OpenOk())
        peer.expect(spec.Channel.Close)
        is_closed.set()
        peer.method(opening.channel_number, spec.Channel.CloseOk())
        peer.farewell()

    with broker(script) as server:
        connection = Connection([server.parameters()])
        other = Listener(connection).join()
        with Client(connection) as client, pytest.raises(RequestTimeout):
            client.request("input", {}, timeout=0.2)
        has_left.set()
        closed = is_closed.wait(10)
        other.quit()
    assert closed
