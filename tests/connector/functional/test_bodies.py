"""Bodies that are no requests: dead-lettered as they are, never run, and nobody else is harmed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from waiting import eventually

from .conftest import Consume, echo
from .peer import Peer

MARK = "executed"


def literal(text: str) -> bytes:
    """A body as a peer would send it, if this were a dict."""
    return base64.b64encode(json.dumps(text).encode())


BODIES = [
    pytest.param(b"", id="empty"),
    pytest.param(b"not base64!", id="not base64"),
    pytest.param(b"\xff\xfe\x00\x80" * 50, id="binary"),
    pytest.param(base64.b64encode(b"\xff\xfe\x00"), id="base64 of binary"),
    pytest.param(base64.b64encode(b"{'a': 1"), id="base64 of half a literal"),
    pytest.param(literal("[1, 2]"), id="list"),
    pytest.param(literal("'text'"), id="string"),
    pytest.param(literal("None"), id="none"),
    pytest.param(b"[1, 2]", id="JSON list"),
    pytest.param(b'{"a": 1', id="half of JSON"),
    pytest.param(literal(f"__import__('pathlib').Path('{MARK}').touch() or {{}}"), id="call"),
    pytest.param(
        literal(f"{{'a': __import__('os').system('touch {MARK}')}}"), id="call inside a dict"
    ),
    pytest.param(literal("{'a': [].__class__.__base__.__subclasses__()}"), id="attributes"),
    pytest.param(literal("{'a': 9**9**9}"), id="arithmetic"),
    pytest.param(literal("{'a': 'x' * 10**10}"), id="multiplication"),
    pytest.param(literal(f"{{'a': open('{MARK}', 'w')}}"), id="open"),
    pytest.param(literal("{'a': " + "[" * 10_000 + "]" * 10_000 + "}"), id="10 000 deep"),
    pytest.param(b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", id="10 000 deep, JSON"),
    pytest.param(literal("{'a': " + "(" * 10_000), id="10 000 brackets left open"),
    pytest.param(literal("{'a': '" + "x" * 10_000_000 + "'}"), id="10 MB"),
    pytest.param(b"x" * 10_000_000, id="10 MB of nothing"),
    pytest.param(literal("{[]: 1}"), id="unhashable key"),
]


@pytest.mark.parametrize("body", BODIES)
def test_a_hostile_body_is_dead_lettered_unexecuted_and_answered(
    peer: Peer,
    queue: str,
    consume: Consume,
    body: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    dead_letters = peer.declare_dead(queue)
    replies = peer.declare("")
    consume(echo)
    peer.publish(queue, body, reply_to=replies, correlation_id="c1")
    reply = peer.reply(replies)
    assert (reply["success"], reply["code"], reply["message_id"]) == (False, 400, "c1")
    assert reply["error"] and len(reply["error"]) < 300
    assert peer.take(dead_letters)[1] == body
    assert peer.ask(queue, text="still here")["echo"] == {"text": "still here"}
    assert not (tmp_path / MARK).exists()


def test_without_a_reply_queue_it_is_dead_lettered_all_the_same(
    peer: Peer, queue: str, consume: Consume
) -> None:
    dead_letters = peer.declare_dead(queue)
    consumer = consume(echo)
    for _ in range(20):
        peer.publish(queue, b"rubbish")
    eventually(lambda: peer.count(dead_letters)[0] == 20)
    assert consumer.is_consuming


@pytest.mark.parametrize("reply_queue", [7, [1], {"a": 1}, "", "x" * 300, "\x00", "ü" * 200])
def test_an_odd_reply_queue_costs_the_message_and_nothing_else(
    peer: Peer, queue: str, consume: Consume, reply_queue: object
) -> None:
    peer.declare_dead(queue)
    consumer = consume(echo)
    peer.publish(queue, {"routing_key": reply_queue, "message_id": "m"})
    peer.publish(queue, {"routing_key": reply_queue, "message_id": reply_queue})
    assert peer.ask(queue, text="still here")["echo"] == {"text": "still here"}
    consumer.stop(3.0)
    consumer.join(60)
    peer.rests_at(queue, 0)
