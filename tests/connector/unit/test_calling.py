"""Asking and publishing as far as it can be seen without a broker: what goes along, how long is waited, and the
harness that answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from mq_connector import ConsumerThread, MQConnector, Request
from mq_connector.calling import asking
from mq_connector.calling.asking import Asking
from mq_connector.calling.message import Publication, origin, time_for
from mq_connector.consumer.opened import Delivery
from mq_connector.consumer.workers.current import current, expired_for, in_hand
from mq_connector.errors import PayloadError, RequestTimeout, StartError, Unroutable, WouldWait
from mq_connector.testing import Harness
from pika.spec import Basic

from ..asking import REQUEST, SCENARIOS, Scenario, without_id

TRACE = f"00-{'1' * 32}-{'2' * 16}-01"


class Hold:
    """Has a message in hand, as a worker does."""

    def __init__(self) -> None:
        self.token: Any = None

    def __call__(
        self, body: bytes = b"", thread: Any = None, ago: float = 0.0, **properties: Any
    ) -> None:
        delivery = Delivery(
            SimpleNamespace(),  # type: ignore[arg-type]
            Basic.Deliver("tag", 1, False, "", "q"),
            pika.BasicProperties(**properties),
            body,
        )
        began = time.monotonic() - ago
        self.token = in_hand.set(SimpleNamespace(thread=thread, delivery=delivery, began=began))


@pytest.fixture
def hold() -> Iterator[Hold]:
    one = Hold()
    yield one
    if one.token is not None:
        in_hand.reset(one.token)


def left() -> float | None:
    now = current()
    assert now is not None
    return now.time_left


def test_outside_of_a_callback_nothing_is_in_hand() -> None:
    assert current() is None
    assert origin().correlation_id is None
    assert (time_for("q", None), time_for("q", 5.0)) == (30.0, 5.0)


def test_a_thread_that_a_callback_has_begun_doesnt_take_its_context_for_its_own(hold: Hold) -> None:
    hold(b"", threading.Thread(), expiration="5000")
    assert current() is None


@pytest.mark.parametrize(
    ("properties", "ago", "seconds"),
    [
        ({}, 0.0, None),
        ({"expiration": "5000"}, 1.0, 4.0),
        # Neon's clients write this and wait on.
        ({"expiration": "1000"}, 5.0, None),
        ({"expiration": "-5"}, 0.0, None),
        ({"expiration": "5 s"}, 0.0, None),
        ({"expiration": "9" * 40}, 0.0, None),
    ],
)
def test_the_time_left_is_what_the_expiration_leaves(
    hold: Hold, properties: dict[str, Any], ago: float, seconds: float | None
) -> None:
    hold(b"", ago=ago, **properties)
    found = left()
    if seconds is None:
        assert found is None
    else:
        assert found is not None and seconds - 30 < found <= seconds


def test_the_time_at_which_a_request_was_sent_counts_before_that_at_which_it_came(
    hold: Hold,
) -> None:
    sent = time.time() - 60
    hold(
        b"", expiration="100000", timestamp=int(sent), headers={"timestamp_in_ms": int(sent * 1000)}
    )
    found = left()
    assert found is not None and found <= 40


def test_the_wait_is_the_shorter_of_wish_and_time_left(hold: Hold) -> None:
    hold(b"", expiration="5000")
    assert time_for("q", 1.0) == 1.0
    assert time_for("q", 100.0) <= 5.0
    assert time_for("q", None) <= 5.0


def test_without_time_left_nobody_is_asked(hold: Hold) -> None:
    hold(b"", ago=10.0, expiration="5000")
    with pytest.raises(RequestTimeout, match="waits no more"):
        time_for("q", None)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_out_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        time_for("q", timeout)


@pytest.mark.parametrize(
    ("properties", "body", "found"),
    [
        ({"correlation_id": "his", "message_id": "mine"}, b'{"message_id": "body"}', "his"),
        ({"message_id": "mine"}, b'{"message_id": "body"}', "body"),
        ({"message_id": "mine"}, b"\xff", "mine"),
        ({}, b"{}", None),
        ({}, b'{"message_id": "' + b"x" * 300 + b'"}', None),
    ],
)
def test_the_id_of_the_request_in_hand_goes_along(
    hold: Hold, properties: dict[str, Any], body: bytes, found: str | None
) -> None:
    hold(body, headers={"traceparent": TRACE}, **properties)
    assert origin().correlation_id == found
    assert origin().headers == {"traceparent": TRACE}
    marked = Publication.of("e", "k", {}).properties
    assert marked.correlation_id == found
    assert marked.headers is not None and marked.headers["traceparent"] == TRACE


@pytest.mark.parametrize(
    ("sent", "expiration", "headers", "expired"),
    [
        (-60, "30000", {}, True),
        (-60, "90000", {}, False),
        (-60, None, {}, False),
        (None, "1", {}, False),
        # To the end of the second, unless it is known more exactly.
        (0, "1", {}, False),
        (-2, "500", "exactly", True),
        (-60_000, "30000", "milliseconds", True),
        (-60, "30000", {"timestamp_in_ms": "nonsense"}, True),
        (-60, "30000", {"timestamp_in_ms": True}, True),
    ],
)
def test_what_says_when_it_was_sent_expires_by_that(
    sent: int | None, expiration: str | None, headers: Any, expired: bool
) -> None:
    now = time.time()
    second = None if sent is None else int(now) + sent
    if headers == "exactly":
        assert second is not None
        headers = {"timestamp_in_ms": second * 1000 + 1}
    if headers == "milliseconds":
        second, headers = int(now * 1000) - 60_000, {}
    properties = pika.BasicProperties(timestamp=second, expiration=expiration, headers=headers)
    assert (expired_for(properties) is not None) is expired


# ---- the harness


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_the_harness_does_what_the_table_says(scenario: Scenario) -> None:
    service = scenario.service()
    outcome = Harness(service.handle_api_input, {"other": scenario.other}).send(REQUEST)
    if isinstance(scenario.reply, str):
        assert outcome.reply["error"].startswith(scenario.reply)
        assert outcome.settled == "dead-letter"
    else:
        assert without_id(outcome.reply) == scenario.reply
        assert outcome.reply["message_id"] == "message-1"
        assert outcome.settled == "ack"
    asked = [each.request for each in outcome.asked if each.queue == "other"]
    assert sorted(asked, key=str) == sorted(scenario.asked, key=str)
    events = [without_id(each.data) for each in outcome.published if each.exchange == "events"]
    assert events == list(scenario.events)


class Service(MQConnector):
    """Asks, publishes and listens."""

    def __init__(self) -> None:
        super().__init__({"users": {"s": {"username": "u", "password": "p"}}}, "s")
        connection = self.create_mq_connection()
        self.heard: list[Any] = []
        self.consumers = {
            "input": ConsumerThread(connection, "input", self.handle),
            "weather": ConsumerThread(
                connection, callback_func=self.listen, exchange="w", routing_keys=["rain.*"]
            ),
        }

    def handle(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        request = Request.decode(body, properties)
        reply = self.ask("other", {"for": request.data["text"]})
        self.publish("news", "k", {"told": reply["answer"]})
        assert request.reply_queue
        channel.basic_publish("", request.reply_queue, request.encode_reply(reply))

    def listen(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.heard.append((method.exchange, method.routing_key, Request.decode(body).data))


def test_the_harness_answers_what_the_handler_asks() -> None:
    service = Service()
    harness = Harness(service.handle, {"other": lambda request: {"answer": request["for"] * 2}})
    outcome = harness.send({"text": "ab"})
    assert outcome.reply["answer"] == "abab"
    [question] = outcome.asked
    assert (question.queue, question.request) == ("other", {"for": "ab"})
    published = [each for each in outcome.published if each.exchange == "news"]
    assert [each.data["told"] for each in published] == ["abab"]
    assert outcome.settled == "ack"


def test_the_harness_raises_what_it_is_given_and_knows_no_other_queue() -> None:
    service = Service()
    error = RequestTimeout("no reply")
    assert Harness(service.handle, {"other": error}).send({"text": "a"}).error is error
    outcome = Harness(service.handle, {"others": {}}).send({"text": "a"})
    assert isinstance(outcome.error, Unroutable)
    assert outcome.settled == "dead-letter"


@pytest.mark.parametrize("wrong", [["a list"], {"now": time}, {"x": float("nan")}])
def test_what_the_real_one_refuses_the_harness_refuses(wrong: Any) -> None:
    service = Service()
    raised: list[Exception] = []

    def handle(*_: Any) -> None:
        for call in (lambda: service.ask("other", wrong), lambda: service.publish("e", "", wrong)):
            with pytest.raises(PayloadError) as caught:
                call()
            raised.append(caught.value)

    harness = Harness(handle, {"other": {}})
    harness._service = service
    assert harness.send({}).settled == "ack"
    assert len(raised) == 2


def test_the_harness_publishes_to_who_listens() -> None:
    service = Service()
    harness = Harness(service.listen)
    assert harness.publish("w", "rain.heavy", {"text": "wet"}).settled == "ack"
    assert service.heard[0][:2] == ("w", "rain.heavy")
    assert service.heard[0][2]["text"] == "wet"
    for exchange, key in (("w", "sun"), ("w", "rain.heavy.too"), ("other", "rain.heavy")):
        with pytest.raises(AssertionError, match="no consumer hears"):
            harness.publish(exchange, key, {})


def test_after_the_harness_a_service_asks_for_itself_again() -> None:
    service = Service()
    before = service._mq_caller
    Harness(service.handle).send({"text": "a"})
    assert service._mq_caller is before


def test_on_an_event_loop_only_the_twins_that_dont_wait_work() -> None:
    service = Service()
    service.handle = lambda *_: asyncio.run(on_loop())  # type: ignore[method-assign]

    async def on_loop() -> None:
        with pytest.raises(WouldWait, match="ask_async"):
            service.ask("other", {})
        assert await service.ask_async("other", {}) == {"a": 1}
        await service.publish_async("e", "k", b"raw")

    harness = Harness(service.handle, {"other": {"a": 1}})
    harness._service = service
    outcome = harness.send({})
    assert outcome.settled == "ack", outcome.error
    assert [each.body for each in outcome.published if each.exchange == "e"] == [b"raw"]


def test_a_client_that_was_refused_takes_no_other_one_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two wait for a reply in a vhost that refuses them; a third asks anew as soon as the first has heard of it."""
    made: list[Any] = []

    class Refused:
        def __init__(self, *_: Any, **__: Any) -> None:
            made.append(self)

        def begin(self, queue: str, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(queue=queue)

        def outcome(self, _: Any) -> Any:
            raise StartError("no access")

    monkeypatch.setattr(asking, "Client", Refused)
    service: Any = SimpleNamespace(
        calls=(), vhost="/", service_name="s", _mq_connection=lambda _: None, consumers={}
    )
    one = Asking(service)
    first, second = one.begin("q", {}, None, 1.0), one.begin("q", {}, None, 1.0)
    for each in (first, second):
        with pytest.raises(StartError):
            one.end(each)
        one.begin("q", {}, None, 1.0)
    assert len(made) == 2, "the other one isn't refused, so it goes on"
