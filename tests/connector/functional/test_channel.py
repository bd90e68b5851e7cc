"""The channel that a callback gets: pika's names work from any thread, and no refusal costs it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pika
import pytest
from mq_connector import Request
from mq_connector.consumer import Channel
from mq_connector.consumer.channel.instead import INSTEAD
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
        # Longer than it takes to fetch them one by one, on a machine where much else runs.
        properties=pika.BasicProperties(expiration="60000"),
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
    consumer.join(60)
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
    assert done.wait(60)
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


def test_a_callback_that_closes_its_channel_costs_nobody_anything(
    peer: Peer, queue: str, consume: Consume
) -> None:
    dead = peer.declare_dead(queue)
    done: list[bytes] = []

    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        echo(channel, method, properties, body)
        channel.close()
        done.append(body)

    consumer = consume(handle)
    channel = consumer.channel
    for _ in range(5):
        assert peer.ask(queue, text="hi")["echo"] == {"text": "hi"}
    assert len(done) == 5
    assert channel is not None and channel.is_open, "the consumer has lost its channel"
    consumer.stop(2)
    consumer.join(60)
    peer.rests_at(queue, 0)
    assert peer.count(dead)[0] == 0
    peer.channel.queue_delete(dead)


def test_a_message_that_its_callback_can_settle_no_more_comes_again_until_it_is_dead(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """On a transient queue, where the broker doesn't count, a second time is the last."""
    dead = peer.declare_dead(queue)
    seen: list[bool] = []

    def handle(channel: Channel, method: Any, *_: Any) -> None:
        seen.append(method.redelivered)
        channel.close()

    consume(handle, ack_on_return=False, queue_type="legacy")
    peer.publish(queue, b"x")
    assert peer.take(dead)[1] == b"x"
    assert seen == [False, True]
    peer.channel.queue_delete(dead)


def test_a_message_can_be_got_from_another_queue(peer: Peer, queue: str, consume: Consume) -> None:
    got: list[Any] = []
    other = peer.declare("")
    large = bytes(300_000)

    def handle(channel: Channel, *_: Any) -> None:
        got.extend(channel.basic_get(other, auto_ack=True) for _ in range(4))
        try:
            channel.basic_get("no such queue", auto_ack=True)
        except ChannelError as error:
            got.append(error.code)
        got.append(channel.basic_get(other, auto_ack=True))

    peer.publish(other, b"one", message_id="m")
    peer.publish(other, large)
    consumer = consume(handle)
    peer.publish(queue, b"x")
    eventually(lambda: len(got) == 6)
    method, properties, body = got[0]
    assert (method.routing_key, method.message_count) == (other, 1)
    assert (properties.message_id, body) == ("m", b"one")
    assert got[1][2] == large
    assert got[2:4] == [(None, None, None)] * 2
    assert got[4:] == [404, (None, None, None)]
    assert consumer.is_consuming
    peer.rests_at(other, 0)


def test_an_exchange_can_be_bound_to_another(peer: Peer, queue: str, consume: Consume) -> None:
    names = [f"{queue}.one", f"{queue}.two"]
    output = peer.declare("")
    for name in names:
        peer.channel.exchange_declare(name, "fanout")
    peer.channel.queue_bind(output, names[1])
    done: list[str] = []

    def handle(channel: Channel, *_: Any) -> None:
        channel.exchange_bind(names[1], names[0]).wait()
        channel.basic_publish(names[0], "", b"through")
        done.append("bound")
        eventually(lambda: channel.basic_get(output, auto_ack=True)[2] == b"through")
        channel.exchange_unbind(names[1], names[0]).wait()
        channel.basic_publish(names[0], "", b"lost")
        done.append("unbound")

    consume(handle)
    peer.publish(queue, b"x")
    eventually(lambda: done == ["bound", "unbound"])
    peer.rests_at(output, 0)
    for name in names:
        peer.channel.exchange_delete(name)


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_what_a_callback_has_not_fails_its_message_and_says_so(
    peer: Peer, queue: str, consume: Consume, name: str
) -> None:
    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if Request.decode(body).data.get("bad"):
            getattr(channel, name)()
        echo(channel, method, properties, body)

    consumer = consume(handle)
    reply = peer.ask(queue, bad=True)
    assert (reply["success"], reply["code"]) == (False, 500)
    assert INSTEAD[name] in reply["error"] and name in reply["error"]
    assert peer.ask(queue, text="hi")["echo"] == {"text": "hi"}
    assert consumer.is_consuming


def test_what_is_published_finds_what_was_declared_before_as_on_one_channel(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """Nobody waits for the results, as nobody does in pika's documentation."""
    output = peer.declare("")
    made: list[str] = []

    def handle(channel: Channel, _method: Any, _properties: Any, body: bytes) -> None:
        exchange, bound = f"{queue}.{body.decode()}", f"{queue}.bound.{body.decode()}"
        made.append(exchange)
        channel.exchange_declare(exchange, "fanout")
        channel.exchange_declare(f"{exchange}.next", "fanout")
        channel.exchange_bind(f"{exchange}.next", exchange)
        channel.queue_declare(bound)
        channel.queue_bind(bound, f"{exchange}.next")
        channel.queue_bind(output, f"{exchange}.next")
        channel.basic_publish(exchange, "", body)

    consume(handle)
    for number in range(10):
        peer.publish(queue, b"%d" % number)
    got = [peer.take(output)[1] for _ in range(10)]
    assert sorted(got) == [b"%d" % number for number in range(10)]
    for name in made:
        for each in (name, f"{name}.next"):
            peer.channel.exchange_delete(each)
        peer.channel.queue_delete(name.replace(queue, f"{queue}.bound"))


@pytest.mark.parametrize("count", [1, 3, 300])
def test_a_callback_says_how_many_messages_are_sent_ahead(
    broker: Broker, peer: Peer, queue: str, consume: Consume, count: int
) -> None:
    go_on = threading.Event()
    handled: list[bytes] = []

    def handle(channel: Channel, _method: Any, _properties: Any, body: bytes) -> None:
        if body == b"say":
            channel.basic_qos(prefetch_count=count)
        elif body == b"wait":
            go_on.wait(60)
        handled.append(body)

    consumer = consume(handle, prefetch=None)
    handling = consumer._supervision._handling
    assert handling is not None

    # It changes while the consumer has in hand all that it gets, and once it has proved to be well.
    def is_heeded() -> bool:
        handled.clear()
        messages = [*[b"x"] * 20, b"say", *[b"x"] * 2000]
        with pika.BlockingConnection(broker.parameters()) as connection:
            unconfirmed = connection.channel()
            for body in messages:
                unconfirmed.basic_publish("", queue, body)
        eventually(lambda: len(handled) >= len(messages))
        return handling.workers.prefetch == count

    eventually(is_heeded, 60, lambda: f"{handling.workers.prefetch} in hand")
    time.sleep(0.2)
    handled.clear()
    for _ in range(count + 20):
        peer.publish(queue, b"wait")
    peer.rests_at(queue, 20)
    go_on.set()
    eventually(lambda: len(handled) == count + 20)


def test_the_operator_says_more_than_a_callback(peer: Peer, queue: str, consume: Consume) -> None:
    go_on = threading.Event()
    handled: list[bytes] = []

    def handle(channel: Channel, _method: Any, _properties: Any, body: bytes) -> None:
        channel.basic_qos(prefetch_count=1)
        if body == b"wait":
            go_on.wait(60)
        handled.append(body)

    consumer = consume(handle, prefetch=5)
    for _ in range(50):
        peer.publish(queue, b"x")
    eventually(lambda: len(handled) == 50)
    handling = consumer._supervision._handling
    assert handling is not None
    eventually(lambda: handling.workers.prefetch == 5)
    time.sleep(0.2)
    for _ in range(20):
        peer.publish(queue, b"wait")
    peer.rests_at(queue, 15)
    go_on.set()
    eventually(lambda: len(handled) == 70)
