"""Handling and settling of messages: each exactly as the callback says, and none left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector import ConsumerThread, payload
from mq_connector.consumer import Channel
from waiting import eventually

from .broker import Broker
from .conftest import Consume, echo
from .peer import Peer

Settle = Callable[[Channel, int], None]


def ack(channel: Channel, tag: int) -> None:
    channel.basic_ack(tag)


def reject(channel: Channel, tag: int) -> None:
    channel.basic_reject(tag, requeue=False)


def nack(channel: Channel, tag: int) -> None:
    channel.basic_nack(tag, requeue=False)


def nothing(channel: Channel, tag: int) -> None:
    """Leaves it to the connector."""


def ready_after(peer: Peer, consumer: ConsumerThread) -> int:
    """Messages in the queue once the consumer has gone: what it hasn't settled comes back."""
    consumer.stop(2.0)
    consumer.join(60)
    return peer.count(consumer.queue)[0]


def test_a_request_is_answered_under_its_id(peer: Peer, queue: str, consume: Consume) -> None:
    consume(echo)
    reply = peer.ask(queue, message_id="m1", text="hi", raw=b"\x00\xff", pair=(1, 2))
    assert reply == {"echo": {"text": "hi", "raw": b"\x00\xff", "pair": (1, 2)}, "message_id": "m1"}


def test_a_request_without_a_message_id_is_answered(
    peer: Peer, queue: str, consume: Consume
) -> None:
    consume(echo)
    replies = peer.declare("")
    peer.publish(queue, {"text": "hi", "routing_key": replies})
    assert peer.reply(replies)["echo"] == {"text": "hi"}


def test_one_worker_keeps_the_order(peer: Peer, queue: str, consume: Consume) -> None:
    seen: list[int] = []
    consumer = consume(lambda _c, _m, _p, body: seen.append(int(body)))
    for number in range(500):
        peer.publish(queue, b"%d" % number)
    eventually(lambda: len(seen) >= 500)
    assert seen == list(range(500))
    assert ready_after(peer, consumer) == 0


def test_eight_workers_handle_eight_messages_at_a_time(
    peer: Peer, queue: str, consume: Consume
) -> None:
    together = threading.Barrier(8)
    seen: list[int] = []

    def handle(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        together.wait(60)
        seen.append(int(body))

    consumer = consume(handle, workers=8)
    for number in range(80):
        peer.publish(queue, b"%d" % number)
    eventually(lambda: len(seen) >= 80)
    assert sorted(seen) == list(range(80))
    assert ready_after(peer, consumer) == 0


@pytest.mark.parametrize(("settle", "dead"), [(nothing, 0), (ack, 0), (reject, 3), (nack, 3)])
def test_a_message_is_settled_as_the_callback_says(
    peer: Peer, queue: str, consume: Consume, settle: Settle, dead: int
) -> None:
    dead_letters = peer.declare_dead(queue)
    seen = []

    def handle(channel: Channel, method: Any, _properties: Any, body: bytes) -> None:
        settle(channel, method.delivery_tag)
        seen.append(body)

    consumer = consume(handle)
    for _ in range(3):
        peer.publish(queue, b"x")
    eventually(lambda: len(seen) == 3)
    assert ready_after(peer, consumer) == 0
    eventually(lambda: peer.count(dead_letters)[0] == dead)


@pytest.mark.parametrize("first", [ack, reject, nack])
@pytest.mark.parametrize("second", [ack, reject, nack])
def test_settling_twice_does_no_harm(
    peer: Peer, queue: str, consume: Consume, first: Settle, second: Settle
) -> None:
    dead_letters = peer.declare_dead(queue)
    channels = []

    def handle(channel: Channel, method: Any, _properties: Any, _body: bytes) -> None:
        first(channel, method.delivery_tag)
        second(channel, method.delivery_tag)
        channels.append(channel)

    consumer = consume(handle)
    for _ in range(2):
        peer.publish(queue, b"x")
        time.sleep(0.02)
    eventually(lambda: len(channels) == 2)
    peer.publish(queue, b"x")
    eventually(lambda: len(channels) == 3)
    assert all(each.is_open for each in channels), "the broker closed the channel"
    assert ready_after(peer, consumer) == 0
    eventually(lambda: peer.count(dead_letters)[0] == (0 if first is ack else 3))


@pytest.mark.parametrize("requeue", ["basic_reject", "basic_nack"])
def test_a_requeued_message_comes_again_marked_as_redelivered(
    peer: Peer, queue: str, consume: Consume, requeue: str
) -> None:
    seen = []

    def handle(channel: Channel, method: Any, _properties: Any, _body: bytes) -> None:
        seen.append(method.redelivered)
        if not method.redelivered:
            getattr(channel, requeue)(method.delivery_tag, requeue=True)

    consumer = consume(handle)
    peer.publish(queue, b"x")
    eventually(lambda: len(seen) == 2)
    assert seen == [False, True]
    assert ready_after(peer, consumer) == 0


@pytest.mark.parametrize("outcome", ["ack", "nack"])
def test_multiple_settles_all_up_to_the_tag(
    peer: Peer, queue: str, consume: Consume, outcome: str
) -> None:
    """Four workers hold one message each; the last one settles for all."""
    dead_letters = peer.declare_dead(queue)
    together = threading.Barrier(4)
    seen = []

    def handle(channel: Channel, method: Any, _properties: Any, _body: bytes) -> None:
        together.wait(60)
        if method.delivery_tag == 4:
            if outcome == "ack":
                channel.basic_ack(4, multiple=True)
            else:
                channel.basic_nack(4, multiple=True, requeue=False)
            seen.append(4)
        together.wait(60)

    consumer = consume(handle, workers=4)
    for _ in range(4):
        peer.publish(queue, b"x")
    eventually(lambda: seen)
    eventually(lambda: peer.count(dead_letters)[0] == (4 if outcome == "nack" else 0))
    assert ready_after(peer, consumer) == 0


def test_an_unknown_tag_is_ignored(peer: Peer, queue: str, consume: Consume) -> None:
    channels = []

    def handle(channel: Channel, _method: Any, _properties: Any, _body: bytes) -> None:
        channel.basic_ack(9999)
        channel.basic_reject(9999)
        channels.append(channel)

    consume(handle)
    peer.publish(queue, b"x")
    eventually(lambda: channels)
    time.sleep(0.1)
    peer.publish(queue, b"x")
    eventually(lambda: len(channels) == 2)
    assert channels[0].is_open, "the broker closed the channel"


def test_an_ack_from_another_thread_after_the_return_does_no_harm(
    peer: Peer, queue: str, consume: Consume
) -> None:
    channels = []
    late = []

    def handle(channel: Channel, method: Any, _properties: Any, _body: bytes) -> None:
        channels.append(channel)
        timer = threading.Timer(0.05, channel.basic_ack, (method.delivery_tag,))
        timer.start()
        late.append(timer)

    consumer = consume(handle)
    for _ in range(5):
        peer.publish(queue, b"x")
        time.sleep(0.03)
    for timer in late:
        timer.join()
    peer.publish(queue, b"x")
    eventually(lambda: len(channels) == 6)
    assert all(each.is_open for each in channels), "the broker closed the channel"
    assert ready_after(peer, consumer) == 0


def test_a_tag_of_a_lost_connection_settles_nothing_on_the_next_one(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """The first delivery's tag is 1 on both channels; only the second one may be acknowledged."""
    first: list[Channel] = []
    release = threading.Event()
    seen = []

    def handle(channel: Channel, method: Any, _properties: Any, body: bytes) -> None:
        seen.append((body, method.delivery_tag, method.redelivered))
        if not first:
            first.append(channel)
            consumer.connection.call(consumer.connection.drop)
            eventually(lambda: not channel.is_open)
        else:
            # The message is in hand on the new channel, under the tag that the old one had.
            for settle in (first[0].basic_ack, first[0].basic_reject, first[0].basic_nack):
                settle(1)
            release.wait(60)

    consumer = consume(handle)
    peer.publish(queue, b"x")
    eventually(lambda: len(seen) == 2)
    assert seen == [(b"x", 1, False), (b"x", 1, True)]
    peer.rests_at(queue, 0, consumers=1)
    # Taken back unsettled, the message is in the queue again.
    consumer.stop(0)
    eventually(lambda: not consumer.is_alive())
    release.set()
    peer.rests_at(queue, 1)


def test_what_raises_is_dead_lettered_and_answered_with_an_error(
    peer: Peer, queue: str, consume: Consume
) -> None:
    dead_letters = peer.declare_dead(queue)
    told: list[Any] = []

    def handle(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        if payload.decode(body).get("fail"):
            raise KeyError("no such thing")

    consumer = consume(handle, error_func=lambda *args: told.append(args))
    reply = peer.ask(queue, message_id="m2", fail=True)
    assert reply == {
        "success": False,
        "error": "KeyError: 'no such thing'",
        "code": 500,
        "message_id": "m2",
    }
    properties, body = peer.take(dead_letters)
    assert payload.decode(body)["message_id"] == "m2"
    headers = properties.headers or {}
    assert headers["x-exception-type"] == "KeyError"
    assert headers["x-exception-message"] == "'no such thing'"
    assert (headers["x-original-routing-key"], headers["x-deliveries"]) == (queue, 1)
    assert [(thread, repr(error)) for thread, error in told] == [
        (consumer, repr(KeyError("no such thing")))
    ]
    assert ready_after(peer, consumer) == 0


def test_an_error_handler_that_fails_costs_nothing_but_a_log_line(
    peer: Peer, queue: str, consume: Consume
) -> None:
    dead_letters = peer.declare_dead(queue)
    seen = []

    def handle(channel: Channel, _method: Any, _properties: Any, _body: bytes) -> None:
        seen.append(channel)
        raise ValueError("bad")

    def fail(_thread: Any, _error: Exception) -> None:
        raise RuntimeError("worse")

    consumer = consume(handle, error_func=fail)
    for _ in range(5):
        peer.publish(queue, b"x")
    eventually(lambda: peer.count(dead_letters)[0] == 5)
    assert all(each.is_open for each in seen)
    assert ready_after(peer, consumer) == 0


def test_the_thread_of_a_callback_that_exits_goes_on(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """`sys.exit` is no Exception, and must not leave the only worker dead: not in a handler, nor in
    the error handler that is told of it."""
    seen = []

    def handle(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        seen.append(body)
        if body == b"exit":
            raise SystemExit(3)

    def fail(_thread: Any, _error: Exception) -> None:
        raise SystemExit(4)

    consumer = consume(handle, error_func=fail)
    peer.declare_dead(queue)
    peer.publish(queue, b"exit")
    peer.publish(queue, b"next")
    eventually(lambda: b"next" in seen)
    assert ready_after(peer, consumer) == 0


def test_sixty_poison_messages_do_not_stall_the_consumer(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """More than the prefetch: messages that are never settled would use it up."""
    dead_letters = peer.declare_dead(queue)

    def handle(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        if body == b"poison":
            raise ValueError("poison")
        echo(_channel, _method, properties, body)

    consume(handle, prefetch=10)
    for _ in range(60):
        peer.publish(queue, b"poison")
    assert peer.ask(queue, text="hi")["echo"] == {"text": "hi"}
    eventually(lambda: peer.count(dead_letters)[0] == 60)


def test_a_consumer_takes_no_more_than_its_prefetch(
    broker: Broker, peer: Peer, queue: str, consume: Consume
) -> None:
    release = threading.Event()
    consume(lambda *_: release.wait(60), prefetch=7)
    for _ in range(20):
        peer.publish(queue, b"x")
    # And the first one, which was taken alone, by a consumer of its own.
    eventually(lambda: peer.count(queue)[0] == 12)
    time.sleep(0.1)
    peer.rests_at(queue, 12)
    release.set()
    eventually(lambda: peer.count(queue)[0] == 0)


def test_a_handler_that_hangs_blocks_one_worker_only(
    peer: Peer, queue: str, consume: Consume
) -> None:
    release = threading.Event()

    def handle(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if body == b"hang":
            release.wait(60)
        else:
            echo(channel, method, properties, body)

    consume(handle, workers=2)
    peer.publish(queue, b"hang")
    for _ in range(20):
        assert peer.ask(queue, text="hi")["echo"] == {"text": "hi"}
    release.set()
