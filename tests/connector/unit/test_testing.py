"""The harness shows what would have become of a message, without a broker."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from mq_connector import payload
from mq_connector.config import Limits
from mq_connector.errors import PayloadError
from mq_connector.payload import Form
from mq_connector.payload.request import REPLY_PROPERTIES, Request
from mq_connector.testing import REPLY_QUEUE, Harness


def echo(channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
    request = Request.decode(body, properties)
    if request.reply_queue:
        reply = request.encode_reply({"echo": request.data})
        channel.basic_publish("", request.reply_queue, reply, REPLY_PROPERTIES)


def calling(name: str, *arguments: Any, **options: Any) -> Any:
    """A handler that calls one method of the channel with the delivery's tag."""

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        getattr(channel, name)(method.delivery_tag, *arguments, **options)

    return handler


def test_a_reply_can_be_looked_at_and_the_message_is_acknowledged() -> None:
    outcome = Harness(echo).send({"text": "hi"})
    assert outcome.reply == {"echo": {"text": "hi"}, "message_id": "message-1"}
    assert outcome.settled == "ack"
    assert outcome.error is None
    [published] = outcome.published
    assert (published.exchange, published.routing_key) == ("", REPLY_QUEUE)
    assert published.properties is REPLY_PROPERTIES


def test_each_message_has_an_id_of_its_own() -> None:
    harness = Harness(echo)
    replies = [harness.send({}).reply for _ in range(3)]
    assert [each["message_id"] for each in replies] == ["message-1", "message-2", "message-3"]


def test_a_request_may_bring_its_own_id_and_reply_queue() -> None:
    outcome = Harness(echo).send({"message_id": "m", "routing_key": "mine"})
    assert outcome.reply["message_id"] == "m"
    assert outcome.published[0].routing_key == "mine"


def test_a_client_may_want_no_reply() -> None:
    outcome = Harness(echo).send({"routing_key": None})
    assert (outcome.replies, outcome.settled) == ([], "ack")


@pytest.mark.parametrize("form", list(Form))
def test_requests_can_be_sent_in_each_form(form: Form) -> None:
    outcome = Harness(echo).send({"text": "hi"}, form)
    assert payload.form_of(outcome.published[0].body) is form


def test_a_raw_body_can_name_its_reply_queue_in_its_properties() -> None:
    outcome = Harness(echo).send_body(b'{"n": 1}', pika.BasicProperties(reply_to="mine"))
    assert outcome.reply["echo"] == {"n": 1}


@pytest.mark.parametrize(
    ("handler", "settled"),
    [
        (calling("basic_ack"), "ack"),
        (calling("basic_reject"), "requeue"),
        (calling("basic_reject", requeue=False), "dead-letter"),
        (calling("basic_nack", requeue=True), "requeue"),
        (calling("basic_nack", requeue=False), "dead-letter"),
    ],
)
def test_a_handler_that_settles_its_message_is_left_alone(handler: Any, settled: str) -> None:
    assert Harness(handler).send({}).settled == settled


def test_what_pikas_methods_return_can_be_used() -> None:
    names = []

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        names.append(channel.queue_declare(queue="q", durable=True).method.queue)
        channel.exchange_declare("e", "fanout")
        channel.queue_bind("q", "e")
        channel.queue_unbind("q", "e")
        channel.queue_purge("q")
        channel.queue_delete("q")
        channel.exchange_delete("e")
        channel.basic_publish("e", "key", "text", pika.BasicProperties(expiration="1000"), True)
        assert channel.is_open
        assert not channel.is_closed

    outcome = Harness(handler).send({})
    assert outcome.error is None
    assert names == ["q"]
    assert outcome.declared == ["q", "e"]
    assert outcome.published[0].body == b"text"


# ---- failures


def test_an_exception_dead_letters_the_message_and_answers_with_an_error() -> None:
    error = KeyError("user")

    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        raise error

    outcome = Harness(handler).send({})
    assert outcome.settled == "dead-letter"
    assert outcome.error is error
    assert (outcome.reply["success"], outcome.reply["code"]) == (False, 500)


def test_a_bad_body_is_dead_lettered() -> None:
    outcome = Harness(echo).send_body(b"%%%", pika.BasicProperties(reply_to="mine"))
    assert outcome.settled == "dead-letter"
    assert isinstance(outcome.error, PayloadError)
    assert outcome.reply["code"] == 400


def test_a_message_that_was_settled_before_the_exception_is_not_answered() -> None:
    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        raise RuntimeError("afterwards")

    outcome = Harness(handler).send({})
    assert (outcome.settled, outcome.replies) == ("ack", [])


def test_one_reply_is_expected_where_one_is_asked_for() -> None:
    with pytest.raises(AssertionError, match="expected one reply, got 0"):
        _ = Harness(lambda *_: None).send({}).reply


def test_a_published_body_that_is_no_payload_says_so_when_it_is_decoded() -> None:
    def handler(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_publish("logs", "", b"plain text")

    outcome = Harness(handler).send({})
    with pytest.raises(PayloadError):
        _ = outcome.published[0].data


def test_a_body_beyond_the_limits_is_refused_as_it_is_in_the_service() -> None:
    limits = Limits(max_body=20)
    outcome = Harness(echo, limits=limits).send({"text": "more than twenty bytes"})
    assert isinstance(outcome.error, PayloadError)
    assert outcome.settled == "dead-letter"
    assert Harness(echo).send({"text": "more than twenty bytes"}).settled == "ack"
