"""The handler, without a broker: give it a request, look at the replies and at what became of it."""

from << cookiecutter.package_name >>.mq_connector.testing import (
    Harness,
)
from << cookiecutter.package_name >>.service import (
    << cookiecutter.__class_name >>Service as Service,
)


def harness(service=None):
    return Harness((service or Service(config={})).handle_api_input)


def test_a_request_is_answered_under_its_own_message_id():
    outcome = harness().send({"text": "hi", "message_id": "42"})
    assert outcome.reply == {"echo": {"text": "hi"}, "message_id": "42"}
    assert outcome.settled == "ack"


def test_a_client_that_wants_no_reply_gets_none():
    outcome = harness().send({"text": "hi", "routing_key": None})
    assert outcome.published == []
    assert outcome.settled == "ack"


def test_a_failing_answer_is_dead_lettered_and_the_client_is_told():
    class Failing(Service):
        def answer(self, request):
            raise RuntimeError("out of tea")

    outcome = harness(Failing(config={})).send({"text": "hi", "message_id": "42"})
    assert outcome.reply["success"] is False
    assert "out of tea" in outcome.reply["error"]
    assert outcome.reply["message_id"] == "42"
    assert outcome.settled == "dead-letter"


def test_a_body_that_is_no_request_is_dead_lettered():
    outcome = harness().send_body(b"\xff\x00 not a request")
    assert outcome.published == []
    assert outcome.settled == "dead-letter"
