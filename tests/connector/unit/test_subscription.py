"""What a consumer may be told to hear, and how its queue comes to hear it."""

from __future__ import annotations

import re
from typing import Any

import pika
import pytest
from mq_connector import ConsumerThread, MQConnector
from mq_connector.config import Limits
from mq_connector.consumer.handling import Handling
from mq_connector.errors import ChannelError, ConfigurationError
from mq_connector.topology import Subscription

NOWHERE = pika.ConnectionParameters("127.0.0.1", 1)


def consumer(**options: Any) -> ConsumerThread:
    return ConsumerThread(NOWHERE, callback_func=lambda *_: None, **options)


def bindings(subscription: Subscription, *answers: int) -> list[tuple[Any, ...]]:
    """What the broker is asked for; a number among its answers is a refusal."""
    asked: list[tuple[Any, ...]] = []

    class Channel:
        def exchange_declare(self, exchange: str, kind: str, durable: bool, callback: Any) -> None:
            asked.append(("exchange", exchange, kind, durable))

        def queue_bind(self, queue: str, exchange: str, key: str, callback: Any) -> None:
            asked.append(("bind", queue, exchange, key))

    channel: Any = Channel()
    steps = subscription.bind("q")
    waiting = list(answers)
    try:
        operation = next(steps)
        while True:
            operation(channel, lambda _: None)
            refusal = waiting.pop(0) if waiting else 0
            operation = steps.throw(ChannelError(refusal, "no")) if refusal else steps.send(None)
    except StopIteration:
        return asked


def test_without_a_queue_each_subscriber_draws_one_of_its_own() -> None:
    first, second = consumer(exchange="events"), consumer(exchange="events")
    for each in (first, second):
        assert re.fullmatch("subscriber_events_[0-9a-f]{6}", each.queue)
        assert each.is_private
    assert first.queue != second.queue


def test_a_queue_with_a_name_is_shared_also_where_it_hears_an_exchange() -> None:
    shared = consumer(queue="audit", exchange="events")
    assert (shared.queue, shared.is_private) == ("audit", False)


@pytest.mark.parametrize(
    ("options", "heard"),
    [
        ({}, Subscription("events", "fanout")),
        ({"exchange_type": "direct"}, Subscription("events", "direct")),
        (
            {"routing_keys": ["weather.*", "#.storm"]},
            Subscription("events", "topic", ("weather.*", "#.storm"), durable=True),
        ),
        ({"exchange_type": "topic"}, Subscription("events", "topic", (), durable=True)),
    ],
)
def test_the_kind_of_an_exchange_is_what_the_routing_keys_say(
    options: dict[str, Any], heard: Subscription
) -> None:
    assert consumer(exchange="events", **options).subscription == heard


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "a queue, or an exchange"),
        ({"queue": "q", "exchange_type": "fanout"}, "name it"),
        ({"queue": "q", "routing_keys": ["a"]}, "name it"),
        ({"exchange": "e", "exchange_type": "fan-out"}, "one of fanout, direct, topic"),
        ({"exchange": "e", "exchange_type": "topic", "routing_keys": "a.b"}, "['a.b']"),
        ({"exchange": "e", "exchange_type": "fanout", "routing_keys": ["a"]}, "no routing keys"),
        ({"queue": "q", "workers": 0}, "workers is 0"),
        ({"queue": "q", "workers": True}, "workers is True"),
        ({"queue": "q", "prefetch": 65536}, "prefetch is 65536"),
    ],
)
def test_what_cant_be_consumed_is_said_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        consumer(**options)


def test_a_consumer_needs_something_to_call() -> None:
    with pytest.raises(ValueError, match="callback_func"):
        ConsumerThread(NOWHERE, "q")


@pytest.mark.parametrize(
    ("subscription", "asked"),
    [
        (Subscription("e"), [("exchange", "e", "fanout", False), ("bind", "q", "e", "q")]),
        (
            Subscription("e", "topic", durable=True),
            [("exchange", "e", "topic", True), ("bind", "q", "e", "#")],
        ),
        (
            Subscription("e", "direct", ("a", "b")),
            [("exchange", "e", "direct", False), ("bind", "q", "e", "a"), ("bind", "q", "e", "b")],
        ),
    ],
)
def test_the_exchange_is_made_and_bound_once_for_each_key(
    subscription: Subscription, asked: list[tuple[Any, ...]]
) -> None:
    assert bindings(subscription) == asked


@pytest.mark.parametrize("code", [403, 406])
def test_an_exchange_of_somebody_elses_is_used_as_it_is(code: int) -> None:
    assert bindings(Subscription("e"), code)[-1] == ("bind", "q", "e", "q")


def test_another_refusal_is_the_consumers_to_hear() -> None:
    with pytest.raises(ChannelError):
        bindings(Subscription("e"), 404)


def test_workers_and_prefetch_of_a_consumers_own_come_before_those_of_all() -> None:
    one = consumer(queue="q", workers=3, limits=Limits(workers=7, prefetch=9))
    started: list[Limits] = []

    def start(handling: Handling) -> None:
        started.append(handling.limits)
        handling.workers.stop()
        one._supervision.over.set()

    one._supervision.start = start  # type: ignore[method-assign]
    one.start()
    one.join(30)
    assert not one.is_alive()
    assert [(each.workers, each.prefetch) for each in started] == [(3, 9)]


def test_two_handlers_of_one_queue_are_a_failed_start() -> None:
    service = MQConnector({"users": {"s": {"username": "u", "password": "p"}}}, "s")
    connection = service.create_mq_connection()
    for name in ("one", "other"):
        service.consumers[name] = ConsumerThread(connection, "q", lambda *_: None)
    with pytest.raises(ConfigurationError, match="'one' and 'other' have one queue, 'q'"):
        service.run()
    assert not any(each.is_alive() for each in service.consumers.values())


@pytest.mark.parametrize(
    ("pattern", "key", "takes"),
    [
        ("#", "", True),
        ("#", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#.c", "a.b.b.c", True),
        ("a.#.c", "a.b.b", False),
        ("*", "", False),
        ("", "", True),
    ],
)
def test_a_topic_takes_what_its_pattern_fits(pattern: str, key: str, takes: bool) -> None:
    assert Subscription("e", "topic", (pattern,)).takes("q", "e", key) is takes


def test_fanout_takes_all_and_direct_what_it_names() -> None:
    assert Subscription("e").takes("q", "e", "any")
    assert not Subscription("e").takes("q", "other", "any")
    assert Subscription("e", "direct", ("a",)).takes("q", "e", "a")
    assert not Subscription("e", "direct", ("a",)).takes("q", "e", "q")
    assert Subscription("e", "direct").takes("q", "e", "q")
