"""Requests as Neon's clients send them, and replies that those clients take for theirs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pika
import pytest
from mq_connector import payload
from mq_connector.connection.wire.deliveries import Properties
from mq_connector.payload import Form
from mq_connector.payload.request import (
    REPLY_PROPERTIES,
    Request,
    error_reply,
)

from .requests import NONE, decode, forms

# ---- the id


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"message_id": "m1"}, "m1"),
        ({"messageID": "m2"}, "m2"),
        ({"message_id": "m1", "messageID": "m2"}, "m1"),
        ({"message_id": None, "messageID": "m2"}, "m2"),
        ({"context": {"mq": {"message_id": "m3"}}}, "m3"),
        ({"message_id": "m1", "context": {"mq": {"message_id": "m3"}}}, "m1"),
        ({"message_id": None, "context": {"mq": {"message_id": "m3"}}}, "m3"),
        ({"message_id": 7}, 7),
        ({"message_id": ""}, ""),
        ({"message_id": "", "messageID": "m2"}, ""),
        ({"messageID": "", "context": {"mq": {"message_id": "m3"}}}, ""),
        ({"context": {"mq": {"message_id": ""}}}, ""),
        ({"message_id": 0}, 0),
        ({"message_id": False}, False),
        ({"message_id": []}, []),
    ],
)
def test_the_message_id_is_found_wherever_clients_put_it(
    data: dict[str, Any], expected: Any
) -> None:
    assert decode(data).message_id == expected


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"message_id": None},
        {"message_id": None, "messageID": None},
        {"context": {"mq": {"message_id": None}}},
        {"context": None},
        {"context": {"mq": "text"}},
        {"context": ["mq"]},
        {"context": {"mq": {}}},
    ],
)
def test_a_request_without_an_id_gets_a_new_one(data: dict[str, Any]) -> None:
    first, second = decode(data), decode(data)
    assert re.fullmatch("[0-9a-f]{32}", first.message_id)
    assert first.message_id != second.message_id


def test_the_handler_sees_what_the_client_asks_and_not_how_it_is_addressed() -> None:
    request = decode(
        {"message_id": "m", "messageID": "m", "routing_key": "q", "text": "hi", 5: b"x"}
    )
    assert request.data == {"text": "hi", 5: b"x"}


# ---- where the reply goes


def test_the_body_names_the_reply_queue_before_the_properties_do() -> None:
    assert decode({"routing_key": "body"}, reply_to="property").reply_queue == "body"
    assert decode({}, reply_to="property").reply_queue == "property"
    assert decode({"routing_key": None}, reply_to="property").reply_queue == "property"
    assert decode({}).reply_queue is None
    assert Request.decode(payload.encode({})).reply_queue is None


def test_an_address_in_the_context_comes_first_as_in_the_public_connector() -> None:
    context = {"mq": {"routing_key": "context"}, "user": "u"}
    request = decode({"context": context, "routing_key": "body"}, reply_to="property")
    assert request.reply_queue == "context"
    assert decode({"context": context}).reply_queue == "context"
    assert request.data == {"context": context}, "what else is in it is for the handler"
    for mq in (None, {}, {"routing_key": None}, "text"):
        assert decode({"context": {"mq": mq}, "routing_key": "body"}).reply_queue == "body"


DIRECT = "amq.rabbitmq.reply-to"
#: As the broker makes them.
OWN = f"{DIRECT}.g1h2AA5yZXBseUA5NTUwOTcwNAAAA4oAAAAAZw==.a7XmLZ+j/Zyg0A=="

#: What peers use as the name of a reply queue.
ADDRESSES = [
    "3f2b8a1c9d4e4f6a8b7c6d5e4f3a2b1c",
    "3f2b8a1c-9d4e-4f6a-8b7c-6d5e4f3a2b1c",
    "neon_chat_api_error",
    "chat_input.response.3f2b8a1c",
    "amq.gen-Xa2B_cde-fGh==",
    "amqp",
    "with a space",
    "Grüße",
    "x" * 255,
    "ü" * 127,
]


@pytest.mark.parametrize("name", ADDRESSES)
def test_any_queue_may_be_named_for_the_reply(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert decode({"routing_key": name}).reply_queue == name
    assert decode({"context": {"mq": {"routing_key": name}}}).reply_queue == name
    assert decode({}, reply_to=name).reply_queue == name
    assert not caplog.records


#: What is no address, and what the warning says of it.
WRONG = [
    (7, "it is of type int, not text"),
    (b"q", "it is of type bytes, not text"),
    (["q"], "it is of type list, not text"),
    (True, "it is of type bool, not text"),
    ("x" * 256, "it has 256 bytes where AMQP allows 255"),
    ("ü" * 128, "it has 256 bytes where AMQP allows 255"),
    ("\ud800", "it holds half a surrogate pair"),
    ("a\nb", "it holds line breaks or other control characters"),
    ("a\r", "it holds line breaks or other control characters"),
    ("\x1b[2J", "it holds line breaks or other control characters"),
    ("\0", "it holds line breaks or other control characters"),
    ("amq.direct", "names that begin with amq. are the broker's own"),
    (DIRECT, "names that begin with amq. are the broker's own"),
    (OWN, "the broker gives an address of this kind in the property reply_to alone"),
]


@pytest.mark.parametrize(("name", "reason"), WRONG, ids=[repr(name)[:20] for name, _ in WRONG])
def test_an_address_that_no_reply_can_go_to_is_one_warning_and_no_reply(
    name: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = payload.encode({"routing_key": name, "message_id": "m"})
    request = Request.decode(body, NONE)
    assert request.reply_queue is None
    assert error_reply(body, NONE, RuntimeError("x")) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert reason in record.getMessage()
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 250
    assert decode({"context": {"mq": {"routing_key": name}}}, reply_to="q").reply_queue is None


def test_an_address_in_the_properties_is_looked_at_too(caplog: pytest.LogCaptureFixture) -> None:
    assert decode({}, reply_to="a\nb").reply_queue is None
    assert decode({}, reply_to="amq.direct").reply_queue is None
    assert len(caplog.records) == 2
    assert error_reply(b"?", pika.BasicProperties(reply_to="a\nb"), RuntimeError()) is None
    assert len(caplog.records) == 3, "nobody else has decoded it"


@pytest.mark.parametrize("name", ["", None])
def test_who_names_no_queue_wants_no_reply_and_no_warning(
    name: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert decode({"routing_key": name}).reply_queue is None
    assert not caplog.records


def test_direct_reply_to_works_from_the_property_which_only_the_broker_writes() -> None:
    assert decode({}, reply_to=OWN).reply_queue == OWN
    # A client that puts into the body what it publishes with.
    assert decode({"routing_key": DIRECT}, reply_to=OWN).reply_queue == OWN
    assert decode({"routing_key": DIRECT}, reply_to="q").reply_queue is None
    assert decode({"routing_key": OWN}, reply_to=OWN).reply_queue is None


def test_a_log_that_fails_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise OSError("disk full")

    logger = logging.getLogger("mq_connector.payload.request")
    monkeypatch.setattr(logger, "filters", [fail])
    assert decode({"routing_key": 7, "text": "hi"}).data == {"text": "hi"}


# ---- the reply's properties


def raw(properties: pika.BasicProperties) -> Properties:
    """As a delivery brings them."""
    return Properties(b"".join(properties.encode()))


brought = pytest.mark.parametrize(
    "bring", [lambda properties: properties, raw], ids=["pika", "raw"]
)
Bring = Callable[[pika.BasicProperties], pika.BasicProperties]


def test_replies_expire_after_a_second_as_those_of_peers_do() -> None:
    assert pika.BasicProperties(expiration="1000") == REPLY_PROPERTIES


@brought
def test_a_reply_carries_the_correlation_id_and_the_content_type(bring: Bring) -> None:
    sent = pika.BasicProperties(
        correlation_id="c", content_type="application/json", reply_to="q", app_id="a", priority=3
    )
    body = payload.encode({"message_id": "m"}, Form.JSON)
    expected = pika.BasicProperties(
        expiration="1000", correlation_id="c", content_type="application/json"
    )
    assert Request.decode(body, bring(sent)).reply_properties == expected
    for unreadable in (body, b"{", b"?"):
        reply = error_reply(unreadable, bring(sent), RuntimeError())
        assert reply is not None
        assert reply[2] == expected


@brought
def test_a_message_id_counts_and_is_carried_where_the_body_has_none(bring: Bring) -> None:
    sent = pika.BasicProperties(message_id="p", reply_to="q")
    request = Request.decode(payload.encode({}), bring(sent))
    assert request.message_id == "p"
    assert request.reply_properties == pika.BasicProperties(expiration="1000", message_id="p")
    reply = error_reply(payload.encode({}), bring(sent), RuntimeError())
    assert reply is not None
    assert payload.decode(reply[1])["message_id"] == "p"
    request = Request.decode(payload.encode({"message_id": "m"}), bring(sent))
    assert request.message_id == "m"
    assert request.reply_properties is REPLY_PROPERTIES


@brought
@pytest.mark.parametrize("sent", [{}, {"reply_to": "q", "expiration": "1", "headers": {"a": 1}}])
def test_who_sends_neither_gets_the_properties_that_all_replies_share(
    bring: Bring, sent: dict[str, Any]
) -> None:
    """The encoder of properties remembers the last ones: nearly all replies carry these."""
    properties = bring(pika.BasicProperties(**sent))
    request = Request.decode(payload.encode({"message_id": "m", "routing_key": "q"}), properties)
    assert request.reply_properties is REPLY_PROPERTIES
    if isinstance(properties, Properties):
        assert "expiration" not in vars(properties), "they were not even decoded"
    assert Request.decode(payload.encode({})).reply_properties is REPLY_PROPERTIES


def test_properties_that_cannot_be_read_or_sent_back_cost_nothing_else() -> None:
    broken = Properties(b"\xff\xfe\xff")
    body = payload.encode({"message_id": "m", "routing_key": "q"})
    request = Request.decode(body, broken)
    assert (request.reply_queue, request.reply_properties) == ("q", REPLY_PROPERTIES)
    assert Request.decode(payload.encode({}), broken).reply_queue is None
    odd: Any = pika.BasicProperties(correlation_id="\ud800", content_type="x" * 256)
    assert Request.decode(body, odd).reply_properties is REPLY_PROPERTIES
    odd.correlation_id = b"c"
    assert Request.decode(body, odd).reply_properties is REPLY_PROPERTIES


# ---- the reply


@forms
def test_a_reply_has_the_form_and_the_id_of_its_request(form: Form) -> None:
    request = decode({"message_id": "m", "text": "hi"}, form)
    body = request.encode_reply({"answer": 42})
    assert payload.form_of(body) is form
    assert payload.decode(body) == {"answer": 42, "message_id": "m"}


def neon_id(reply: dict[str, Any]) -> Any:
    """Where Neon's client looks for the id of a reply."""
    return reply.get("context", reply).get("mq", reply).get("message_id")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"message_id": "the handler's own"},
        {"context": {}},
        {"context": {"user": "a"}},
        {"context": {"mq": {}}},
        {"context": {"mq": {"message_id": "stale", "other": 1}}},
    ],
)
def test_neons_client_finds_the_id_whatever_the_handler_answers(answer: dict[str, Any]) -> None:
    before = repr(answer)
    reply = payload.decode(decode({"message_id": "m"}).encode_reply(answer))
    assert neon_id(reply) == "m"
    assert reply["message_id"] == "m"
    assert repr(answer) == before, "the handler's dict is its own"


def test_a_context_keeps_what_else_is_in_it() -> None:
    answer = {"context": {"user": "a", "mq": {"routing_key": "q"}}}
    reply = payload.decode(decode({"message_id": "m"}).encode_reply(answer))
    assert reply["context"] == {"user": "a", "mq": {"routing_key": "q", "message_id": "m"}}


def test_a_client_that_spells_the_id_differently_gets_both_spellings() -> None:
    assert payload.decode(decode({"messageID": "m"}).encode_reply({})) == {
        "message_id": "m",
        "messageID": "m",
    }
