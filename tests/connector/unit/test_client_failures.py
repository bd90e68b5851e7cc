"""The asking side: a request without a reply ends with an error that says why."""

from __future__ import annotations

import threading

import pytest
from mq_connector import client as client_module
from mq_connector import payload
from mq_connector.connection import loop as loop_module
from mq_connector.errors import (
    NotConnected,
    PublishError,
    RequestTimeout,
)
from pika import spec

from . import wire
from .fake_broker import PATIENCE, BrokerEnd, broker
from .fakes import be_a_child
from .replying import Ask, ack, answer_all, answer_all_on_channel, client, ready, reply, requested

__all__ = ["client"]


def test_a_request_that_was_on_its_way_is_sent_again_after_a_loss(client: Ask) -> None:
    def lose(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)

    with broker(lose, answer_all) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"})["echo"] == "hi"
        asking.close()


def test_a_cancelled_consumer_is_replaced_on_another_channel(client: Ask) -> None:
    def cancel(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        requested(peer)
        peer.method(channel, spec.Basic.Cancel(peer.consumer_tag, True))
        peer.expect(spec.Channel.Close)
        peer.method(channel, spec.Channel.CloseOk())
        answer_all_on_channel(peer)

    with broker(cancel) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"})["echo"] == "hi"
        asking.close()
        assert server.count == 1


@pytest.mark.parametrize("known", [None, ""])
def test_a_queue_that_does_not_exist_is_reported_at_once(client: Ask, known: object) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        queue, data, properties = requested(peer)
        body = payload.encode(data)
        returned = spec.Basic.Return(312, "NO_ROUTE", "", queue)
        peer.send(wire.method(channel, returned), *wire.content(channel, body, properties))
        ack(peer, channel, 1)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        with pytest.raises(PublishError, match=r"vhost '/echo' has no queue 'missing'"):
            asking.request("missing", {"message_id": known})
        asking.close()


def test_a_message_that_the_broker_refuses_is_reported(client: Ask) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        requested(peer)
        peer.method(channel, spec.Basic.Nack(1, False, False))
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        with pytest.raises(PublishError, match=r"basic\.nack"):
            asking.request("full", {})
        asking.close()


@pytest.mark.parametrize("wants_reply", [True, False])
def test_without_an_answer_in_time_the_request_fails(client: Ask, wants_reply: bool) -> None:
    def script(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        method = asking.request if wants_reply else asking.send
        what = "reply from" if wants_reply else "confirmation of a message to"
        with pytest.raises(RequestTimeout, match=rf"^no {what} 'input' within 0\.3 s$"):
            method("input", {}, timeout=0.3)
        asking.close()


def test_a_time_out_says_what_is_wrong_with_the_connection(client: Ask) -> None:
    with broker(answer_all) as server:
        pass
    with pytest.raises(
        RequestTimeout, match=r"within 0\.3 s: no connection to .*: connection refused"
    ):
        client(server).request("input", {}, timeout=0.3)


def test_a_late_reply_disturbs_nobody(client: Ask) -> None:
    asked = threading.Event()

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        first = requested(peer)[1]
        second = requested(peer)[1]
        reply(peer, channel, {"message_id": first["message_id"], "n": 1})
        reply(peer, channel, {"message_id": second["message_id"], "n": 2})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        with pytest.raises(RequestTimeout):
            asking.request("input", {}, timeout=0.2)
        asked.set()
        assert asking.request("input", {})["n"] == 2
        asking.close()


def refuse_the_first(peer: BrokerEnd) -> None:
    channel, _ = ready(peer)
    requested(peer)
    peer.close_channel(channel, 406, "PRECONDITION_FAILED - message size is larger than max")
    answer_all_on_channel(peer)


def test_a_request_that_comes_while_a_channel_is_closed_waits_for_the_next_one(
    client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_CHANNEL_PAUSE", 0.3)

    with broker(refuse_the_first) as server:
        asking = client(server)
        with pytest.raises(PublishError, match="406"):
            asking.request("input", {}, PATIENCE)
        assert not asking.is_well
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        assert asking.is_well
        asking.close()
        assert server.count == 1


def test_a_message_that_amqp_can_t_hold_fails_alone_and_takes_nobody_s_confirm(
    client: Ask,
) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        for tag in (1, 2):
            requested(peer)
            ack(peer, channel, tag)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        asking.send("input", {"n": 1}, timeout=PATIENCE)
        for queue, message_id in (("q" * 256, "short"), ("input", "m" * 256)):
            with pytest.raises(PublishError, match="not sent"):
                asking.send(queue, {"message_id": message_id}, timeout=PATIENCE)
        asking.send("input", {"n": 2}, timeout=PATIENCE)
        asking.close()


def test_a_message_that_costs_the_channel_is_reported_and_not_sent_again(client: Ask) -> None:
    with broker(refuse_the_first) as server:
        asking = client(server)
        with pytest.raises(PublishError, match="406 PRECONDITION_FAILED"):
            asking.request("input", {"text": "large"}, timeout=PATIENCE)
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        asking.close()


def test_a_forked_child_is_sent_away_before_a_lock_that_its_parent_may_hold(
    client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_child() -> None:
        try:
            asking.request("input", {}, timeout=1)
        except NotConnected as error:
            said.append(str(error))
        asking.close()
        said.append("closed")

    said: list[str] = []
    with broker(lambda peer: answer_all(peer, 2)) as server:
        asking = client(server)
        asking.request("input", {})
        with monkeypatch.context() as child, asking._requests._lock:
            be_a_child(child)
            thread = threading.Thread(target=in_child)
            thread.start()
            thread.join(1.0)
            assert [words[:23] for words in said] == ["this process was forked", "closed"]
        assert asking.request("input", {"text": "parent"})["echo"] == "parent"
        asking.close()


def test_a_loop_that_fails_costs_no_request(client: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "RESTART_PAUSE", 0.01)

    def fail() -> None:
        raise OSError("too many open files")

    def hold(peer: BrokerEnd) -> None:
        ready(peer)
        requested(peer)
        asking.connection.call(lambda: asking.connection.later(0, fail))
        peer.farewell()

    with broker(hold, answer_all) as server:
        asking = client(server)
        assert asking.request("input", {"text": "hi"}, timeout=PATIENCE)["echo"] == "hi"
        asking.close()
