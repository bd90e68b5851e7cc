"""The asking side: how a client is closed."""

from __future__ import annotations

import threading
import time

import pytest
from mq_connector.client import Client
from mq_connector.connection import Connection
from mq_connector.errors import (
    MQError,
    NotConnected,
    StartError,
)
from pika import spec

from .fake_broker import PATIENCE, BrokerEnd, broker
from .replying import (
    Ask,
    ack,
    answer_all,
    client,
    ready,
    refused_login,
    refused_queue,
    reply,
    requested,
)

__all__ = ["client"]


def test_closing_after_a_refusal_takes_no_time(client: Ask) -> None:
    for script in (refused_login, refused_queue):
        with broker(script) as server:
            asking = client(server)
            with pytest.raises(StartError):
                asking.request("input", {}, timeout=PATIENCE)
            began = time.monotonic()
            asking.close()
            assert time.monotonic() - began < 2


def test_a_shared_reply_queue_that_others_still_use_is_left_to_them_at_once(client: Ask) -> None:
    """The broker says so by closing the channel; nobody may consume it once more for that."""
    said: list[type] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        message_id = requested(peer)[1]["message_id"]
        ack(peer, channel, 1)
        reply(peer, channel, {"message_id": message_id})
        peer.expect(spec.Basic.Ack)
        peer.expect(spec.Basic.Cancel)
        peer.method(channel, spec.Basic.CancelOk(peer.consumer_tag))
        deleted = peer.expect(spec.Queue.Delete)
        assert deleted.if_unused and deleted.if_empty
        peer.close_channel(channel, 406, "PRECONDITION_FAILED - queue 'replies' in use")
        said.append(type(peer.read().method))
        peer.method(0, spec.Connection.CloseOk())

    with broker(script) as server:
        asking = client(server, reply_queue="replies", exclusive=False, shared=True)
        asking.request("input", {}, timeout=PATIENCE)
        began = time.monotonic()
        asking.close()
        assert time.monotonic() - began < 2
    assert said == [spec.Connection.Close]


def test_a_request_after_close_is_refused_at_once(client: Ask) -> None:
    with broker(answer_all) as server:
        asking = client(server)
        asking.request("input", {}, timeout=PATIENCE)
        asking.close()
        began = time.monotonic()
        for method in (asking.request, asking.send):
            with pytest.raises(NotConnected, match="the client is closed"):
                method("input", {}, timeout=PATIENCE)
        assert time.monotonic() - began < 1
        assert server.count == 1, "nothing is opened again for it"


def test_a_client_that_is_closed_before_its_first_request_opens_nothing() -> None:
    asking = Client(Connection([]))
    asking.close()
    with pytest.raises(NotConnected, match="the client is closed"):
        asking.request("input", {})
    assert asking.connection._loop is None


def test_closing_ends_the_requests_that_wait(client: Ask) -> None:
    waiting = threading.Event()

    def script(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)
        waiting.set()
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        errors: list[MQError] = []

        def ask() -> None:
            try:
                asking.request("input", {}, timeout=PATIENCE)
            except MQError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert waiting.wait(PATIENCE)
        asking.close()
        thread.join(PATIENCE)
        assert [type(error) for error in errors] == [NotConnected]


def test_a_client_that_was_never_used_closes_without_ado() -> None:
    asking = Client(Connection([]))
    asking.close()
    asking.close()
