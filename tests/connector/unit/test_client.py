"""The asking side: a request gets its own reply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector.channels.pending import Pending
from pika import spec

from . import wire
from .fake_broker import PATIENCE, BrokerEnd, broker
from .members import Listener
from .replying import Ask, ack, answer_all, answer_all_on_channel, client, ready, reply, requested

__all__ = ["client"]


def test_a_request_gets_its_reply(client: Ask) -> None:
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, declared = ready(peer)
        seen.append(declared)
        seen.append(requested(peer))
        reply(peer, channel, {"message_id": seen[1][1]["message_id"], "answer": 42})
        deleted = peer.expect(spec.Queue.Delete)
        seen.append(deleted.queue)
        peer.method(channel, spec.Queue.DeleteOk(0))
        peer.farewell()

    with broker(script) as server, client(server, reply_queue="my.replies") as asking:
        answer = asking.request("input", {"text": "hi"}, timeout=5)
    declared, (queue, data, properties), deleted = seen
    assert answer["answer"] == 42
    assert (declared.queue, declared.exclusive) == ("my.replies", True)
    assert queue == "input"
    assert (data["text"], data["routing_key"]) == ("hi", "my.replies")
    assert properties.message_id == data["message_id"]
    assert 0 < int(properties.expiration) <= 5000
    assert deleted == "my.replies", "no reply queue is left behind"


def test_replies_reach_the_thread_that_waits_for_them(client: Ask) -> None:
    count = 20

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        waiting = [requested(peer)[1] for _ in range(count)]
        ack(peer, channel, count, multiple=True)
        for data in reversed(waiting):
            reply(peer, channel, {"message_id": data["message_id"], "echo": data["text"]})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        answers: dict[int, Any] = {}

        def ask(number: int) -> None:
            answers[number] = asking.request("input", {"text": number})["echo"]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        asking.close()
    assert answers == {number: number for number in range(count)}


def test_a_request_leaves_once_when_the_channel_opens_between_its_entry_and_its_turn(
    client: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = threading.Event()

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        message_id = requested(peer)[1]["message_id"]
        sent.set()
        # Neither the first of a second `basic.publish` nor anything else may come before the reply.
        peer.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.read()
        peer.sock.settimeout(PATIENCE)
        reply(peer, channel, {"message_id": message_id})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        call, caller = asking.connection.call, threading.current_thread()
        calls: list[int] = []

        def late(function: Callable[[], object]) -> None:
            if threading.current_thread() is caller:
                calls.append(1)
                if len(calls) == 2:  # the first is that of joining
                    assert sent.wait(PATIENCE)
            call(function)

        monkeypatch.setattr(asking.connection, "call", late)
        asking.request("input", {})
        monkeypatch.undo()
        assert len(calls) == 2
        asking.close()


def test_it_shares_a_connection_and_closes_nobody_else_s(client: Ask) -> None:
    def script(peer: BrokerEnd) -> None:
        peer.open()
        answer_all_on_channel(peer)

    with broker(script) as server:
        asking = client(server)
        neighbour = Listener(asking.connection).join()
        neighbour.wait(1)
        assert asking.request("input", {"text": "hi"})["echo"] == "hi"
        began = time.monotonic()
        asking.close()
        assert time.monotonic() - began < 2
        assert asking.connection.is_open and neighbour.events == ["open"]
        neighbour.quit()
        assert server.count == 1


def test_the_request_is_not_changed_and_its_own_id_is_kept(client: Ask) -> None:
    with broker(answer_all) as server:
        asking = client(server)
        data = {"message_id": "mine", "text": "hi"}
        assert asking.request("input", data)["message_id"] == "mine"
        assert data == {"message_id": "mine", "text": "hi"}
        asking.close()


@pytest.mark.parametrize("known", ["", 0, False, ("a", 1)])
def test_an_id_of_the_caller_s_own_stays_as_it_is(client: Ask, known: object) -> None:
    """Only None is none; and an empty one isn't that of a reply which has none."""
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        _, data, _ = requested(peer)
        seen.append(data["message_id"])
        peer.send(*wire.delivery(channel, 1, b"no payload", consumer_tag=peer.consumer_tag))
        reply(peer, channel, {"n": 1})
        reply(peer, channel, {"message_id": data["message_id"], "n": 2})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        assert asking.request("input", {"message_id": known}, timeout=5)["n"] == 2
        assert seen == [known]
        assert type(seen[0]) is type(known)
        asking.close()


def test_a_request_with_no_id_gets_one(client: Ask) -> None:
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        for tag in range(1, 4):
            _, data, _ = requested(peer)
            seen.append(data["message_id"])
            ack(peer, channel, tag)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        asking.send("input", {"message_id": None})
        asking.send("input", {})
        asking.send("input", {"message_id": None, "context": {"mq": {"message_id": ""}}})
        asking.close()
    assert [len(each) for each in seen] == [32, 32, 0]


def test_a_message_without_a_reply_is_done_when_the_broker_has_taken_it(client: Ask) -> None:
    seen: list[Any] = []

    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        seen.append(requested(peer)[1])
        time.sleep(0.05)
        seen.append("taken")
        ack(peer, channel, 1)
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        asking.send("input", {"text": "hi"})
        assert seen[1:] == ["taken"]
        assert "routing_key" not in seen[0]
        asking.close()


def test_parts_and_strangers_are_passed_over_until_the_final_reply(client: Ask) -> None:
    def script(peer: BrokerEnd) -> None:
        channel, _ = ready(peer)
        message_id = requested(peer)[1]["message_id"]
        peer.send(*wire.delivery(channel, 1, b"no payload", consumer_tag=peer.consumer_tag))
        reply(peer, channel, {"message_id": "another's", "n": 1})
        reply(peer, channel, {"n": 2})
        reply(peer, channel, {"message_id": message_id, "n": 3, "is_final": False})
        reply(peer, channel, {"message_id": message_id, "n": 4, "is_final": True})
        peer.farewell()

    with broker(script) as server:
        asking = client(server)
        assert asking.request("input", {})["n"] == 4
        asking.close()


@pytest.mark.parametrize("timeout", [1e8, 1e300, float("inf")])
def test_a_request_for_which_is_waited_very_long_expires_as_late_as_amqp_has_it(
    timeout: float,
) -> None:
    """Beyond some number the broker closes the channel (406), and what else is under way there fails with it."""
    request = Pending("id", b"", "input", timeout, None)
    assert request.properties.expiration == str(2**32 - 1)
