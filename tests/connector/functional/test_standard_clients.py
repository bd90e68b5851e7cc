"""Clients that know RabbitMQ's tutorial and nothing of Neon, and replies that nobody could read."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from mq_connector import Channel
from mq_connector.payload.request import Request
from pika.adapters.blocking_connection import BlockingChannel
from waiting import eventually

from .broker import Broker
from .conftest import Consume, echo
from .peer import Peer
from .test_bodies import literal

DIRECT = "amq.rabbitmq.reply-to"


@pytest.fixture
def client(broker: Broker) -> Iterator[BlockingChannel]:
    """A channel of a client that has its own ways."""
    connection = pika.BlockingConnection(broker.parameters())
    yield connection.channel()
    connection.close()


def ask(client: BlockingChannel, queue: str, body: bytes, replies: str) -> tuple[Any, bytes]:
    """Request and reply as in RabbitMQ's sixth tutorial: what has another correlation id is dropped."""
    answers: list[tuple[Any, bytes]] = []

    def on_reply(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        if properties.correlation_id == "c-1":
            answers.append((properties, body))

    client.basic_consume(replies, on_reply, auto_ack=True)
    sent = pika.BasicProperties(
        reply_to=replies, correlation_id="c-1", content_type="application/json"
    )
    client.basic_publish("", queue, body, sent)

    def answered() -> Any:
        client.connection.process_data_events(0.01)
        return answers

    return eventually(answered, what="a reply with our correlation id")[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["direct", "drawn"])
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"text": "hi"}', {"echo": {"text": "hi"}}),
        (b'\xef\xbb\xbf{"text": "hi"}', {"echo": {"text": "hi"}}),
        (b'{"text": ', {"success": False, "code": 400}),
        (b"[1, 2]", {"success": False, "code": 400}),
        (b"hello", {"success": False, "code": 400}),
        (b'{"text": "fail"}', {"success": False, "code": 500}),
    ],
    ids=["JSON", "BOM", "broken", "list", "no form", "failing"],
)
def test_the_tutorial_s_client_gets_its_answer_in_json(
    client: BlockingChannel,
    queue: str,
    consume: Consume,
    kind: str,
    body: bytes,
    answer: dict[str, Any],
) -> None:
    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if b"fail" in body:
            raise RuntimeError("it failed")
        echo(channel, method, properties, body)

    consume(handle)
    replies = DIRECT
    if kind == "drawn":
        replies = client.queue_declare("", exclusive=True).method.queue
    properties, raw = ask(client, queue, body, replies)
    assert properties.content_type == "application/json"
    assert properties.expiration == "1000"
    reply = json.loads(raw)
    assert answer.items() <= reply.items()


#: A forged address, made of a real one; RabbitMQ 3.10 ends a connection that publishes to it (541).
FORGED = f"{DIRECT}.g2dkABByZXBseUAxODQyOTE0OTMA.x=="


@pytest.mark.parametrize("address", [FORGED, DIRECT, "amq.direct", "a\nb", "x" * 256, 7])
@pytest.mark.parametrize("where", ["body", "context"])
def test_an_address_that_the_broker_would_choke_on_is_one_warning(
    peer: Peer,
    queue: str,
    consume: Consume,
    address: object,
    where: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    named = {"routing_key": address}
    consumer = consume(echo)
    with caplog.at_level(logging.WARNING, "mq_connector"):
        peer.publish(queue, named if where == "body" else {"context": {"mq": named}})
        assert peer.ask(queue, text="still here")["echo"] == {"text": "still here"}
    assert consumer.is_consuming
    (record,) = [each for each in caplog.records if "payload" in each.name]
    assert "nobody will be answered" in record.getMessage()


async def asynchronous() -> dict[str, Any]:
    return {}


#: What handlers return, and what their clients are told.
UNREADABLE = [
    (lambda: {"now": datetime.datetime(2026, 1, 1)}, "answer()['now'] is a datetime, which Neon's"),
    (lambda: {"a": {"b": float("nan")}}, "answer()['a']['b'] is nan, which Neon's format can't"),
    (lambda: {"a": float("inf")}, "answer()['a'] is inf, which Neon's format can't carry"),
    (asynchronous, "answer() must be a dict, but is async"),
    (lambda: ({} for _ in ()), "answer() must be a dict, but yields"),
    (lambda: "x", "answer() must be a dict, but is a str"),
    (lambda: None, "answer() must be a dict, but is None"),
]


@pytest.mark.parametrize(("answer", "text"), UNREADABLE, ids=[row[1][:30] for row in UNREADABLE])
def test_a_reply_that_nobody_could_read_is_the_failure_of_its_request(
    peer: Peer, queue: str, consume: Consume, answer: Any, text: str
) -> None:
    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        request = Request.decode(body, properties)
        assert request.reply_queue is not None
        reply = {"fine": True} if "fine" in request.data else answer()
        encoded = request.encode_reply(reply)
        channel.basic_publish("", request.reply_queue, encoded, request.reply_properties)

    dead = peer.declare_dead(queue)
    consume(handle)
    told = peer.ask(queue)
    assert (told["success"], told["code"]) == (False, 500)
    assert text in told["error"]
    assert "\n" not in told["error"]
    peer.rests_at(dead, 1)
    assert peer.ask(queue, fine=1)["fine"] is True


#: Bodies that took hundreds of megabytes, or many seconds in which nothing else ran.
COSTLY = {
    "sets": literal("{'a': [" + "{0}," * 500_000 + "]}"),
    "dicts": literal("{'a': [" + '{"":0},' * 300_000 + "]}"),
    "lists": literal("{'a': [" + "[]," * 700_000 + "]}"),
    "JSON lists": b'{"a": [' + b"[]," * 1_000_000 + b"0]}",
    "keys": literal(str(dict.fromkeys(range(5000)))),
}


@pytest.mark.parametrize("body", COSTLY.values(), ids=COSTLY)
def test_a_body_that_would_cost_too_much_is_refused_while_the_next_ones_are_answered(
    peer: Peer, queue: str, consume: Consume, body: bytes
) -> None:
    dead = peer.declare_dead(queue)
    replies = peer.declare("")
    consume(echo)
    peer.publish(queue, body, reply_to=replies, correlation_id="c1")
    told = peer.reply(replies, 30.0)
    assert peer.ask(queue, 30.0, text="next")["echo"] == {"text": "next"}
    assert (told["code"], told["message_id"]) == (400, "c1")
    assert "allowed" in told["error"] or "more than" in told["error"]
    peer.rests_at(dead, 1)
