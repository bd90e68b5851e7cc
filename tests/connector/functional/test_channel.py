"""The channel that a callback gets: pika's names work from any thread, and no refusal costs it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pika
import pytest
from mq_connector.consumer import Channel
from mq_connector.errors import ChannelError
from waiting import eventually

from .broker import LIMITED, Broker
from .conftest import Consume, echo
from .peer import Peer


def plain_pattern(channel: Channel, queue: str, data: bytes) -> None:
    """What people copy from pika's documentation."""
    channel.queue_declare(queue=queue)
    channel.basic_publish(
        exchange="",
        routing_key=queue,
        body=data,
        properties=pika.BasicProperties(expiration="1000"),
    )


def test_the_plain_pattern_works_inside_a_callback(
    peer: Peer, queue: str, consume: Consume
) -> None:
    output = f"{queue}.output"
    consume(lambda channel, _m, _p, body: plain_pattern(channel, output, body))
    for number in range(50):
        peer.publish(queue, b"%d" % number)
    eventually(lambda: peer.has(output))
    got = {peer.take(output)[1] for _ in range(50)}
    assert got == {b"%d" % number for number in range(50)}
    peer.channel.queue_delete(output)


def test_the_plain_pattern_works_from_foreign_threads(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """Four threads of the user's own, on the channel that some callback got."""
    output = f"{queue}.output"
    channels: list[Channel] = []
    consume(lambda channel, *_: channels.append(channel))
    peer.publish(queue, b"x")
    eventually(lambda: channels)

    def publish(thread: int) -> None:
        for number in range(50):
            plain_pattern(channels[0], output, b"%d:%d" % (thread, number))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: peer.has(output))
    got = [peer.take(output)[1] for _ in range(200)]
    assert sorted(got) == sorted(b"%d:%d" % (t, n) for t in range(4) for n in range(50))
    peer.channel.queue_delete(output)


def refused_declare(
    peer: Peer, queue: str, consume: Consume, target: str, code: int, **options: Any
) -> None:
    """A declare that is refused with `code`, waited for and not; then business as usual."""
    refusals: list[int] = []
    channels: list[Channel] = []

    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        channels.append(channel)
        channel.queue_declare(target)  # nobody looks at what comes of it
        try:
            channel.queue_declare(target).wait()
        except ChannelError as error:
            refusals.append(error.code)
        echo(channel, method, properties, body)

    consumer = consume(handle, **options)
    for _ in range(3):
        assert peer.ask(queue, text="hi")["echo"] == {"text": "hi"}
    assert refusals == [code] * 3
    assert all(each.is_open for each in channels), "the consumer lost its channel"
    assert consumer.is_consuming


def test_a_declare_that_does_not_match_leaves_the_consumer_alone(
    peer: Peer, queue: str, consume: Consume
) -> None:
    target = peer.declare(f"{queue}.durable", durable=True)
    refused_declare(peer, queue, consume, target, 406)
    peer.channel.queue_delete(target)


def test_a_declare_of_an_exclusive_queue_leaves_the_consumer_alone(
    peer: Peer, queue: str, consume: Consume
) -> None:
    refused_declare(peer, queue, consume, peer.declare(f"{queue}.mine", exclusive=True), 405)


def test_a_declare_without_permission_leaves_the_consumer_alone(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    where = broker.parameters(user=LIMITED)
    refused_declare(peer, queue, consume, "forbidden", 403, at=where)


def test_a_publish_to_a_missing_exchange_costs_no_message(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """The broker closes the channel for it (404); what was in hand is delivered again."""
    seen: list[tuple[bytes, bool]] = []

    def handle(channel: Channel, method: Any, _properties: Any, body: bytes) -> None:
        seen.append((body, method.redelivered))
        if body == b"first" and not method.redelivered:
            channel.basic_publish("no such exchange", "x", b"x")

    consumer = consume(handle)
    peer.publish(queue, b"first")
    peer.publish(queue, b"second")
    eventually(lambda: b"second" in [body for body, _ in seen])
    eventually(lambda: consumer.is_consuming)
    peer.publish(queue, b"third")
    eventually(lambda: (b"third", False) in seen)
    consumer.stop(2)
    consumer.join(5)
    peer.rests_at(queue, 0)


def test_the_result_of_a_declare_is_like_pikas(peer: Peer, queue: str, consume: Consume) -> None:
    results: list[Any] = []

    def handle(channel: Channel, *_: Any) -> None:
        results.append(channel.queue_declare("").method.queue)
        results.append(channel.queue_declare(queue, passive=True).method)

    consume(handle)
    peer.publish(queue, b"x")
    eventually(lambda: len(results) == 2)
    assert results[0].startswith("amq.gen-")
    assert (results[1].queue, results[1].message_count, results[1].consumer_count) == (queue, 0, 1)
    assert peer.has(results[0])
    peer.channel.queue_delete(results[0])


def test_exchanges_and_bindings_work(peer: Peer, queue: str, consume: Consume) -> None:
    errors: list[BaseException] = []
    done = threading.Event()

    def handle(channel: Channel, *_: Any) -> None:
        def count() -> int:
            declared = channel.queue_declare(f"{queue}.bound", passive=True)
            return int(declared.method.message_count)

        try:
            channel.exchange_declare(f"{queue}.fanout", "fanout").wait()
            channel.queue_declare(f"{queue}.bound").wait()
            channel.queue_bind(f"{queue}.bound", f"{queue}.fanout").wait()
            channel.basic_publish(f"{queue}.fanout", "", b"to all")
            eventually(lambda: count() == 1)
            channel.queue_purge(f"{queue}.bound").wait()
            assert count() == 0
            channel.queue_unbind(f"{queue}.bound", f"{queue}.fanout").wait()
            channel.queue_delete(f"{queue}.bound").wait()
            channel.exchange_delete(f"{queue}.fanout").wait()
        except BaseException as error:
            errors.append(error)
        done.set()

    consume(handle)
    peer.publish(queue, b"x")
    assert done.wait(10)
    assert not errors
    assert not peer.has(f"{queue}.bound")


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1_000_000])
def test_bodies_of_any_size_arrive_whole(
    peer: Peer, queue: str, consume: Consume, size: int
) -> None:
    """131 072 bytes is the largest frame, and a frame has 8 bytes around it."""
    output = peer.declare("")
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    consume(lambda channel, _m, _p, got: channel.basic_publish("", output, got))
    peer.publish(queue, body)
    assert peer.take(output)[1] == body


def test_properties_reach_the_callback_and_the_reply(
    peer: Peer, queue: str, consume: Consume
) -> None:
    output = peer.declare("")
    seen: list[Any] = []

    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        seen.append((method.exchange, method.routing_key, method.redelivered))
        channel.basic_publish("", output, body, properties)

    consume(handle)
    sent: dict[str, Any] = {
        "content_type": "text/plain",
        "headers": {"a": 1, "b": [True, None, "x"], "c": {"d": 5}},
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "message_id": "m",
        "timestamp": 1_700_000_000,
        "type": "t",
        "app_id": "a",
    }
    peer.publish(queue, b"x", **sent)
    properties, _ = peer.take(output)
    assert {key: getattr(properties, key) for key in sent} == sent
    assert seen == [("", queue, False)]


def test_an_idle_consumer_sends_its_last_ack_at_once(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """Acks may travel together, but none waits for another message to come."""
    seen: list[tuple[bytes, bool]] = []
    consumer = consume(lambda _c, method, _p, body: seen.append((body, method.redelivered)))
    for _ in range(3):
        peer.publish(queue, b"x")
    eventually(lambda: len(seen) == 3)
    time.sleep(0.05)
    # Whatever hasn't been acknowledged by now is delivered again.
    consumer.connection.call(consumer.connection.drop)
    eventually(lambda: not consumer.is_consuming)
    eventually(lambda: consumer.is_consuming)
    peer.publish(queue, b"y")
    eventually(lambda: (b"y", False) in seen)
    assert seen == [(b"x", False)] * 3 + [(b"y", False)]
