"""What who asked is told of a request that has failed or can't be read."""

from __future__ import annotations

import base64
from typing import Any

import pika
import pytest
from mq_connector import payload
from mq_connector.errors import PayloadError
from mq_connector.payload import Form
from mq_connector.payload.request import (
    MAX_ERROR_TEXT,
    REPLY_PROPERTIES,
    Request,
    error_reply,
    error_text,
    message_ids,
)

from .requests import NONE, decode, forms


@pytest.mark.parametrize("body", [b"", b"%%%", b"[1, 2]", b"{", payload.encode({})[:-4]])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(PayloadError):
        Request.decode(body, NONE)


@forms
def test_a_failed_request_is_answered_in_its_own_form(form: Form) -> None:
    body = payload.encode({"message_id": "m", "routing_key": "q"}, form)
    reply = error_reply(body, NONE, KeyError("user"))
    assert reply is not None
    queue, answer, properties = reply
    assert queue == "q"
    assert properties is REPLY_PROPERTIES
    assert payload.form_of(answer) is form
    assert payload.decode(answer) == {
        "success": False,
        "error": "KeyError: 'user'",
        "code": 500,
        "message_id": "m",
    }


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"not base64 !", Form.LITERAL),
        (b'{"depth": ' + b"[" * 500, Form.JSON),
        (b'\xef\xbb\xbf{"a": ', Form.JSON),
        (b'{"a": "\xff"}', Form.JSON),
        (b"[1, 2]", Form.JSON),
        (payload.encode({"a": 1}, Form.JSON_BASE64)[:-2], Form.JSON_BASE64),
        (payload.encode({"a": 1})[:-4], Form.LITERAL),
    ],
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


def test_an_empty_id_in_the_properties_of_an_unreadable_body_is_an_id() -> None:
    properties = pika.BasicProperties(reply_to="q", message_id="", correlation_id="c")
    reply = error_reply(b"nothing", properties, RuntimeError())
    assert reply is not None
    assert payload.decode(reply[1])["message_id"] == ""


def test_the_content_type_tells_the_form_where_the_body_does_not() -> None:
    for body in (b"", b"nothing", b"\xff\xfe\x00"):
        properties = pika.BasicProperties(reply_to="q", content_type="application/json")
        reply = error_reply(body, properties, RuntimeError())
        assert reply is not None
        assert payload.form_of(reply[1]) is Form.JSON


@pytest.mark.parametrize("form", [Form.JSON, Form.JSON_BASE64])
def test_a_request_with_a_bom_is_answered_as_it_came(form: Form) -> None:
    bom = b"\xef\xbb\xbf"
    body = bom + b'{"message_id": "m"}'
    body = body if form is Form.JSON else base64.b64encode(body)
    request = Request.decode(body, NONE)
    assert request.message_id == "m"
    assert payload.form_of(request.encode_reply({})) is form


class Silent(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("user"), "KeyError: 'user'"),
        (RuntimeError(), "RuntimeError"),
        (Silent(), "Silent: (no text: its __str__ raises SystemExit)"),
        (KeyError(Silent()), "KeyError: (no text: its __str__ raises SystemExit)"),
        (
            ValueError("x" * 5_000_000),
            f"ValueError: {'x' * MAX_ERROR_TEXT}... (5000000 characters)",
        ),
        (ValueError("\ud800"), "ValueError: \ud800"),
    ],
    ids=["text", "none", "raises", "raises in its repr", "long", "surrogate"],
)
@forms
def test_an_exception_s_text_is_cut_and_cannot_spoil_the_reply(
    error: Exception, text: str, form: Form
) -> None:
    assert error_text(error) == text
    body = payload.encode({"message_id": "m", "routing_key": "q"}, form)
    reply = error_reply(body, NONE, error)
    assert reply is not None
    assert payload.decode(reply[1])["error"] == text
    assert len(reply[1]) < 4096
    assert error_reply(b"?", pika.BasicProperties(reply_to="q"), error) is not None


def test_an_id_that_cannot_be_sent_back_does_not_keep_the_error_from_its_client() -> None:
    body = base64.b64encode(b"\"{'message_id': 1e999, 'routing_key': 'q'}\"")
    reply = error_reply(body, NONE, RuntimeError("x"))
    assert reply is not None
    assert payload.decode(reply[1]) == {
        "success": False,
        "error": "RuntimeError: x",
        "code": 500,
        "message_id": None,
    }


def test_a_reply_that_cannot_be_sent_is_named_as_the_handler_s() -> None:
    request = decode({"message_id": "m"})
    with pytest.raises(PayloadError, match=r"^answer\(\)\['a'\] is an object, which Neon's"):
        request.encode_reply({"a": object()})
    with pytest.raises(PayloadError, match=r"^reply\['context'\]\['a'\] is an object"):
        request.encode_reply({"context": {"a": object()}}, "reply")
    with pytest.raises(PayloadError, match=r"^answer\(\) must be a dict, but is None"):
        request.encode_reply(None)  # type: ignore[arg-type]


def test_the_ids_of_a_reply_are_those_that_are_there() -> None:
    assert message_ids({"message_id": "", "messageID": 5}) == ["", "5"]
    assert message_ids({"message_id": None, "context": {"mq": {"message_id": "c"}}}) == ["c"]
    assert message_ids({"message_id": 16**5000}) == []


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
