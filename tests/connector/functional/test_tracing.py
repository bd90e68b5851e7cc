"""Spans of services that handle, ask and publish at a real broker."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from mq_connector import ConsumerThread, MQConnector, Request, RequestError, RetryMessage, respond
from mq_connector.calling import message
from mq_connector.metrics import Metrics
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from running import free_port
from waiting import eventually

from .broker import PASSWORD, USER, VHOST, Broker
from .peer import Peer

pytestmark = pytest.mark.timeout(120)

#: Of a client that has begun a trace: its id, and that of its span.
TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{CLIENT}-01"

_exporter = InMemorySpanExporter()


class Moody(SpanProcessor):
    """Fails where it is told to."""

    at = ""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if "on_start" in self.at:
            raise RuntimeError("no span begins")

    def on_end(self, span: ReadableSpan) -> None:
        if "on_end" in self.at:
            raise RuntimeError("no span ends")


_moody = Moody()


class Service(MQConnector):
    """Answers by what it is given, from a queue of a name of its own."""

    def __init__(self, broker: Broker, answer: Callable[[Service], Any], **options: Any) -> None:
        login = {"username": USER, "password": PASSWORD}
        super().__init__(
            {"server": "127.0.0.1", "port": broker.port, "users": {"traced": login}}, "traced"
        )
        self.vhost = VHOST
        self.queue = f"input.{uuid.uuid4().hex[:12]}"
        self.answer = answer(self)
        self.consumers["input"] = ConsumerThread(
            self.create_mq_connection(), self.queue, self.handle, **options
        )

    def handle(self, channel: Any, _method: Any, properties: Any, body: bytes) -> Any:
        return respond(channel, Request.decode(body, properties), self.answer)


Make = Callable[..., Service]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[ReadableSpan]]]:
    """Tracing is on, and this tells which spans have ended since the test began."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(_exporter))
        provider.add_span_processor(_moody)
        trace.set_tracer_provider(provider)
    monkeypatch.setenv("MQ_TRACING", "1")
    monkeypatch.setattr(message, "trace_now", message.trace_now)  # to be put back
    _exporter.clear()
    yield lambda: list(_exporter.get_finished_spans())


Spans = Callable[[], list[ReadableSpan]]


@pytest.fixture
def make(broker: Broker, peer: Peer, spans: Spans) -> Iterator[Make]:
    """Start services; all end with the test."""
    made: list[Service] = []

    def start(answer: Callable[[Service], Any], **options: Any) -> Service:
        one = Service(broker, answer, **options)
        made.append(one)
        one.run()
        eventually(one.check_health, 30)
        return one

    yield start
    for each in made:
        each.stop(1)
    for each in made:
        peer.channel.queue_delete(each.queue)


def ask(peer: Peer, queue: str, **properties: Any) -> tuple[pika.BasicProperties, bytes]:
    """Send a request of a client that has a trace; returns the reply with its properties."""
    reply_queue = peer.declare("")
    headers = {"traceparent": PARENT}
    body = {"message_id": "mine", "routing_key": reply_queue}
    peer.publish(queue, body, headers=headers, **properties)
    return peer.take(reply_queue, 30)


def named(spans: Spans, *names: str) -> list[ReadableSpan]:
    """The spans of these names, one of each, once they have ended."""

    def found() -> list[ReadableSpan] | None:
        ended = spans()
        each = [[span for span in ended if span.name == name] for name in names]
        return [span for [span] in each] if all(len(one) == 1 for one in each) else None

    ended: list[ReadableSpan] = eventually(
        found, 30, lambda: f"spans: {sorted(span.name for span in spans())}"
    )
    return ended


def parent_of(span: ReadableSpan) -> int | None:
    found: int | None = None if span.parent is None else span.parent.span_id
    return found


def id_of(span: ReadableSpan) -> int:
    found: int = span.context.span_id
    return found


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_request_that_asks_and_publishes_is_one_trace(
    broker: Broker, peer: Peer, make: Make, spans: Spans
) -> None:
    other = make(lambda _: lambda request: {"n": 1})
    exchange = f"events.{uuid.uuid4().hex[:12]}"
    peer.channel.exchange_declare(exchange, "fanout")
    heard = peer.declare("", exclusive=True)
    peer.channel.queue_bind(heard, exchange)

    def answers(service: Service) -> Any:
        def answer(_: dict[Any, Any]) -> dict[Any, Any]:
            service.publish(exchange, "news", {"n": 2})
            return {"told": service.ask(other.queue, {})["n"]}

        return answer

    service = make(answers)
    try:
        reply, _ = ask(peer, service.queue, correlation_id="conversation")
        event, _ = peer.take(heard, 30)
    finally:
        peer.channel.exchange_delete(exchange)
    names = (f"process {service.queue}", f"publish {exchange}", f"ask {other.queue}")
    handled, published, asked, answered = named(spans, *names, f"process {other.queue}")
    replies = [span for span in spans() if span.name == "publish"]
    assert {f"{span.context.trace_id:032x}" for span in spans()} == {TRACE}
    assert parent_of(handled) == int(CLIENT, 16)
    assert parent_of(published) == parent_of(asked) == id_of(handled)
    assert parent_of(answered) == id_of(asked)
    # Each reply names the span that has sent it, and so does the event.
    assert {parent_of(span) for span in replies} == {id_of(handled), id_of(answered)}
    [own] = [span for span in replies if parent_of(span) == id_of(handled)]
    assert (reply.headers or {})["traceparent"] == f"00-{TRACE}-{id_of(own):016x}-01"
    assert (event.headers or {})["traceparent"] == f"00-{TRACE}-{id_of(published):016x}-01"
    kinds = [span.kind for span in (handled, published, asked, answered, own)]
    producer, consumer = SpanKind.PRODUCER, SpanKind.CONSUMER
    assert kinds == [consumer, producer, SpanKind.CLIENT, consumer, producer]
    assert all(span.status.status_code is StatusCode.UNSET for span in spans())
    assert not any("error.type" in attributes(span) for span in spans())

    assert attributes(handled) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": service.queue,
        "messaging.rabbitmq.destination.routing_key": service.queue,
        "messaging.rabbitmq.message.delivery_tag": 1,
        "messaging.message.id": "mine",
        "messaging.message.conversation_id": "conversation",
        "server.address": "127.0.0.1",
        "server.port": broker.port,
    }
    assert attributes(published) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": f"{exchange}:news",
        "messaging.rabbitmq.destination.routing_key": "news",
        "messaging.message.id": event.message_id,
        "messaging.message.conversation_id": "conversation",
    }
    assert attributes(asked)["messaging.operation.name"] == "ask"
    assert attributes(asked)["messaging.destination.name"] == other.queue
    assert attributes(asked)["messaging.message.id"] == attributes(answered)["messaging.message.id"]


def test_what_an_async_handler_does_is_within_its_span(
    peer: Peer, make: Make, spans: Spans
) -> None:
    other = make(lambda _: lambda request: {"n": 1})

    def answers(service: Service) -> Any:
        async def answer(_: dict[Any, Any]) -> dict[Any, Any]:
            await asyncio.sleep(0.01)
            asked = (service.ask_async(other.queue, {"n": n}) for n in range(2))
            return {"told": [each["n"] for each in await asyncio.gather(*asked)]}

        return answer

    service = make(answers, workers=4)
    ask(peer, service.queue)
    ask(peer, service.queue)
    eventually(lambda: sum(span.kind is SpanKind.CONSUMER for span in spans()) == 6, 30)
    handled = [span for span in spans() if span.name == f"process {service.queue}"]
    asked = [span for span in spans() if span.kind is SpanKind.CLIENT]
    assert sorted(parent_of(span) or 0 for span in asked) == sorted(2 * [*map(id_of, handled)])
    for span in asked:
        [around] = [each for each in handled if id_of(each) == parent_of(span)]
        assert around.start_time and span.start_time and around.end_time and span.end_time
        assert around.start_time <= span.start_time and span.end_time <= around.end_time


def test_a_failure_is_an_error_with_its_type(peer: Peer, make: Make, spans: Spans) -> None:
    class TooCold(Exception):
        pass

    def answer(_: dict[Any, Any]) -> dict[Any, Any]:
        raise TooCold("-40 degrees")

    service = make(lambda _: answer)
    ask(peer, service.queue)
    [span] = named(spans, f"process {service.queue}")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "TooCold: -40 degrees"
    assert attributes(span)["error.type"].endswith(".TooCold")
    assert attributes(span)["mq.outcome"] == "dead-lettered"
    [event] = span.events
    assert "TooCold" in str((event.attributes or {})["exception.stacktrace"])


def test_an_async_handler_s_failure_is_one_as_well(peer: Peer, make: Make, spans: Spans) -> None:
    async def answer(_: dict[Any, Any]) -> dict[Any, Any]:
        await asyncio.sleep(0)
        raise KeyError("city")

    service = make(lambda _: answer)
    ask(peer, service.queue)
    [span] = named(spans, f"process {service.queue}")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "KeyError"


def test_a_handler_that_wants_to_end_the_thread_fails(peer: Peer, make: Make, spans: Spans) -> None:
    def answer(_: dict[Any, Any]) -> dict[Any, Any]:
        raise SystemExit(3)

    service = make(lambda _: answer)
    ask(peer, service.queue)
    [span] = named(spans, f"process {service.queue}")
    assert attributes(span)["error.type"] == "SystemExit"


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failure_without_a_text_costs_its_message_only(
    peer: Peer, make: Make, spans: Spans, is_async: bool
) -> None:
    def answer(request: dict[Any, Any]) -> dict[Any, Any]:
        if request:
            raise Mute from ValueError("half a pair: \ud83d")
        return {}

    async def answer_async(request: dict[Any, Any]) -> dict[Any, Any]:
        return answer(request)

    service = make(lambda _: answer_async if is_async else answer)
    for request, success in (({"n": 1}, False), ({}, None)):
        reply = peer.ask(service.queue, 30, **request)
        assert reply.get("success") == success
    bad, _ = (span for span in spans() if span.kind is SpanKind.CONSUMER)
    assert bad.status.status_code is StatusCode.ERROR
    [event] = bad.events
    for text in (event.attributes or {}).values():
        str(text).encode()  # which is how it is exported
    assert "raise Mute" in str((event.attributes or {})["exception.stacktrace"])


@pytest.mark.parametrize("at", ["on_start", "on_end", "on_start, on_end"])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_processor_of_spans_raises_costs_no_message(
    peer: Peer, make: Make, monkeypatch: pytest.MonkeyPatch, at: str, is_async: bool
) -> None:
    def answer(_: dict[Any, Any]) -> dict[Any, Any]:
        return {"n": 1}

    async def answer_async(_: dict[Any, Any]) -> dict[Any, Any]:
        return {"n": 1}

    service = make(lambda _: answer_async if is_async else answer)
    monkeypatch.setattr(_moody, "at", at)
    for _ in range(3):
        assert peer.ask(service.queue, 30)["n"] == 1


def test_what_its_client_is_to_blame_for_is_no_error(peer: Peer, make: Make, spans: Spans) -> None:
    def answer(_: dict[Any, Any]) -> dict[Any, Any]:
        raise RequestError(404, "no such city")

    service = make(lambda _: answer)
    ask(peer, service.queue)
    [span] = named(spans, f"process {service.queue}")
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span)["mq.outcome"] == "refused"


def test_each_delivery_has_a_span_and_a_retry_is_no_error(
    peer: Peer, make: Make, spans: Spans
) -> None:
    tried: list[int] = []

    def answer(_: dict[Any, Any]) -> dict[Any, Any]:
        tried.append(1)
        if len(tried) == 1:
            raise RetryMessage(0.01)
        return {}

    service = make(lambda _: answer)
    ask(peer, service.queue)
    eventually(lambda: sum(span.kind is SpanKind.CONSUMER for span in spans()) == 2, 30)
    first, second = (span for span in spans() if span.kind is SpanKind.CONSUMER)
    assert attributes(first)["mq.outcome"] == "to come again"
    assert "mq.outcome" not in attributes(second)
    assert {first.status.status_code, second.status.status_code} == {StatusCode.UNSET}
    assert parent_of(first) == parent_of(second) == int(CLIENT, 16)


def test_an_ask_that_nobody_answers_is_an_error(make: Make, peer: Peer, spans: Spans) -> None:
    def answers(service: Service) -> Any:
        return lambda _: service.ask("nobodys", {}, timeout=60)

    service = make(answers)
    ask(peer, service.queue)
    asked, handled = named(spans, "ask nobodys", f"process {service.queue}")
    for span in (asked, handled):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "mq_connector.errors.Unroutable"


def test_a_request_without_a_trace_begins_one(peer: Peer, make: Make, spans: Spans) -> None:
    service = make(lambda _: lambda request: {})
    peer.ask(service.queue, 30)
    handled, replied = named(spans, f"process {service.queue}", "publish")
    assert handled.parent is None
    assert replied.context.trace_id == handled.context.trace_id


def test_what_a_handler_says_of_the_trace_itself_stays(
    peer: Peer, make: Make, spans: Spans
) -> None:
    own = f"00-{uuid.uuid4().hex}-{CLIENT}-01"
    heard = peer.declare("")
    service = make(lambda _: lambda request: {})

    def handle(channel: Any, *_: Any) -> None:
        headers = {"traceparent": own, "other": "kept"}
        channel.basic_publish("", heard, b"{}", pika.BasicProperties(headers=headers))
        channel.basic_publish("", heard, b"{}", pika.BasicProperties(headers={"other": "kept"}))

    service.consumers["input"].stop(5)
    service.consumers["input"].join(30)
    service.consumers["input"] = ConsumerThread(
        service.create_mq_connection(), service.queue, handle
    )
    service.run()
    peer.publish(service.queue, {})
    first, second = ((peer.take(heard, 30)[0].headers or {}) for _ in range(2))
    assert first == {"traceparent": own, "other": "kept"}
    assert second["other"] == "kept" and second["traceparent"] not in (None, own)


def test_what_a_thread_of_the_handler_s_publishes_belongs_to_its_message(
    peer: Peer, make: Make, spans: Spans
) -> None:
    heard = peer.declare("")

    def handle(channel: Any, *_: Any) -> None:
        thread = threading.Thread(target=lambda: channel.basic_publish("", heard, b"{}"))
        thread.start()
        thread.join(30)

    one = make(lambda _: lambda request: {})
    one.stop(5)
    one.consumers["input"] = ConsumerThread(one.create_mq_connection(), one.queue, handle)
    one.run()
    peer.publish(one.queue, {}, headers={"traceparent": PARENT})
    peer.take(heard, 30)
    handled, published = named(spans, f"process {one.queue}", "publish")
    assert parent_of(published) == id_of(handled)


def test_metrics_count_beside_it(broker: Broker, peer: Peer, make: Make, spans: Spans) -> None:
    one = Service(broker, lambda _: lambda request: {})
    metrics = Metrics(one.consumers, one.look, free_port())
    try:
        one.run()
        eventually(one.check_health, 30)
        ask(peer, one.queue)
        named(spans, f"process {one.queue}", "publish")
        [[(_, counts)]] = metrics.by_queue().values()
        eventually(lambda: sum(counts.durations()[0].buckets) == 1, 30)
        assert sum(counts.durations()[1].buckets) == 1
        assert counts.received == 1
    finally:
        one.stop(1)
        metrics.close()
        peer.channel.queue_delete(one.queue)
