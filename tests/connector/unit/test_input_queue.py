"""Of which kind the input queue is made, and when it is taken as it is."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from mq_connector.connection import input_queue
from mq_connector.errors import ChannelError, StartError
from pika.spec import Queue

QUORUM = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
REFUSALS = {
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
}


def run(
    steps: Any, *answers: int | Queue.DeclareOk
) -> tuple[Any, list[tuple[str, str, dict[str, Any]]]]:
    """Play the broker: a number refuses an operation. Returns the result and what was asked."""
    asked: list[tuple[str, str, dict[str, Any]]] = []

    class Channel:
        def queue_declare(self, queue: str, callback: Any, **options: Any) -> None:
            asked.append(("declare", queue, options))

        def queue_delete(self, queue: str, callback: Any) -> None:
            asked.append(("delete", queue, {}))

    channel: Any = Channel()
    waiting = list(answers)
    try:
        operation = next(steps)
        while True:
            operation(channel, lambda _: None)
            answer = waiting.pop(0) if waiting else Queue.DeclareOk("q", 0, 0)
            if isinstance(answer, int):
                operation = steps.throw(ChannelError(answer, REFUSALS[answer]))
            else:
                operation = steps.send(SimpleNamespace(method=answer))
    except StopIteration as stop:
        return stop.value, asked


def test_a_queue_is_looked_for_without_touching_it() -> None:
    found, asked = run(input_queue.exists("q"), Queue.DeclareOk("q", 3, 2))
    assert (found.message_count, found.consumer_count) == (3, 2)
    assert asked == [("declare", "q", {"passive": True})]


def test_a_queue_that_is_not_there_is_none() -> None:
    assert run(input_queue.exists("q"), 404)[0] is None


@pytest.mark.parametrize("code", [403, 405])
def test_a_queue_that_may_not_be_looked_at_is_an_error(code: int) -> None:
    with pytest.raises(ChannelError, match=str(code)):
        run(input_queue.exists("q"), code)


@pytest.mark.parametrize(
    ("kind", "tolerant", "options"),
    [
        ("quorum", None, QUORUM),
        ("legacy", None, {}),
        ("auto", True, QUORUM),
        ("auto", None, QUORUM),
        ("auto", False, {}),
        ("quorum", False, QUORUM),
    ],
)
def test_the_kind_follows_the_setting_and_what_the_broker_tolerates(
    kind: str, tolerant: bool | None, options: dict[str, Any]
) -> None:
    assert run(input_queue.make("q", kind, tolerant))[1] == [("declare", "q", options)]


def test_a_transient_queue_comes_with_one_warning_that_says_what_it_costs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(input_queue.make("q", "auto", False))
    [record] = caplog.records
    assert "don't survive a restart" in record.message
    assert "MQ_QUEUE_TYPE=quorum" in record.message
    assert "\n" not in record.message
    caplog.clear()
    run(input_queue.make("q", "auto", True))
    run(input_queue.make("q", "legacy", None))
    assert not caplog.records


@pytest.mark.parametrize(("answer", "tolerant"), [(Queue.DeclareOk("q", 0, 0), True), (406, False)])
def test_the_brokers_tolerance_is_tried_on_a_queue_made_for_it(answer: Any, tolerant: bool) -> None:
    result, asked = run(input_queue.tolerates_legacy("q"), Queue.DeclareOk("p", 0, 0), answer)
    assert result is tolerant
    (first, probe, options), (again, same, plain), (last, gone, _) = asked
    assert (first, again, last) == ("declare", "declare", "delete")
    assert probe == same == gone
    assert probe.startswith("q.probe.")
    # Or it would stay for ever where nobody is left to delete it; and in both, as the broker compares it.
    expires = {"x-expires": 300_000}
    assert options == {"durable": True, "arguments": {"x-queue-type": "quorum", **expires}}
    assert plain == {"arguments": expires}


def test_a_queue_that_is_made_to_see_whether_it_may_be_goes_by_itself() -> None:
    _, [(_, probe, options), (_, gone, _)] = run(input_queue.may_make("q"))
    assert probe == gone and probe.startswith("q.probe.")
    assert options["arguments"]["x-expires"] == 300_000


def test_where_no_queue_may_be_made_for_it_the_tolerance_is_unknown() -> None:
    result, asked = run(input_queue.tolerates_legacy("q"), 403)
    assert result is None
    assert len(asked) == 1


def test_a_queue_of_another_kind_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    run(input_queue.compare("q", "quorum"), 406)
    assert "queue 'q' isn't of type quorum and is used as it is: 406" in caplog.text


def test_a_queue_that_may_not_be_declared_is_not_said_to_be_of_another_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who may consume needn't be allowed to make it, and the refusal says nothing of its kind."""
    run(input_queue.compare("q", "quorum"), 403)
    assert "isn't of type" not in caplog.text
    assert "whether queue 'q' is of type quorum can't be seen, and it is used" in caplog.text


def test_a_queue_of_the_right_kind_is_used_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert run(input_queue.compare("q", "legacy"))[1] == [("declare", "q", {})]
        assert run(input_queue.compare("q", "auto"))[1] == []
    assert not caplog.records


# ---- failures


def test_a_queue_that_somebody_else_makes_meanwhile_will_do() -> None:
    run(input_queue.make("q", "quorum", None), 406)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            403,
            # Not elsewhere, where whoever runs it would see the same words again.
            "no permission for queue 'q'.*run rabbitmq/provision.py, which gives the right in the service's own vhost, and",
        ),
        (405, "belongs exclusively"),
        (404, "can't be used"),
    ],
)
def test_a_refusal_means_something_to_the_user(code: int, words: str) -> None:
    with pytest.raises(StartError, match=words) as raised:
        run(input_queue.make("q", "quorum", None), code)
    assert str(code) in str(raised.value)
