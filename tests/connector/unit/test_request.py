"""Requests as Neon's clients send them, and replies that those clients take for theirs."""

from __future__ import annotations

import re
from typing import Any

import pika
import pytest
from mq_connector import payload
from mq_connector.errors import PayloadError
from mq_connector.payload import Form
from mq_connector.payload.request import REPLY_PROPERTIES, Request, error_reply

NONE = pika.BasicProperties()
forms = pytest.mark.parametrize("form", list(Form))


def decode(data: dict[Any, Any], form: Form = Form.LITERAL, **properties: Any) -> Request:
    return Request.decode(payload.encode(data, form), pika.BasicProperties(**properties))


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
        {"message_id": ""},
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


def test_replies_expire_after_a_second_as_those_of_peers_do() -> None:
    assert pika.BasicProperties(expiration="1000") == REPLY_PROPERTIES


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


# ---- failures


@pytest.mark.parametrize("body", [b"", b"%%%", b"[1, 2]", b"{", payload.encode({})[:-4]])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(PayloadError):
        Request.decode(body, NONE)


@forms
def test_a_failed_request_is_answered_in_its_own_form(form: Form) -> None:
    body = payload.encode({"message_id": "m", "routing_key": "q"}, form)
    reply = error_reply(body, NONE, KeyError("user"))
    assert reply is not None
    queue, answer = reply
    assert queue == "q"
    assert payload.form_of(answer) is form
    assert payload.decode(answer) == {
        "success": False,
        "error": "KeyError: 'user'",
        "code": 500,
        "message_id": "m",
    }


@pytest.mark.parametrize(
    ("body", "form"),
    [(b"not base64 !", Form.LITERAL), (b'{"depth": ' + b"[" * 500, Form.JSON)],
)
@pytest.mark.parametrize("id_in", ["message_id", "correlation_id"])
def test_who_sent_an_unreadable_body_is_told_by_its_properties(
    body: bytes, form: Form, id_in: str
) -> None:
    properties: Any = {"reply_to": "q", id_in: "m"}
    reply = error_reply(body, pika.BasicProperties(**properties), RuntimeError())
    assert reply is not None
    assert reply[0] == "q"
    assert payload.form_of(reply[1]) is form
    answer = payload.decode(reply[1])
    assert (answer["success"], answer["code"], answer["message_id"]) == (False, 400, "m")
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"unreadable",
        payload.encode({"message_id": "m"}),
        payload.encode({"routing_key": ""}),
        payload.encode({"routing_key": 5}),
        payload.encode({"routing_key": ["q"]}),
    ],
)
def test_where_nobody_can_be_told_there_is_no_error_reply(body: bytes) -> None:
    assert error_reply(body, NONE, RuntimeError("x")) is None
