"""Publishing with confirms: each future tells the truth, and one bad message costs nobody else."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

import pika
import pytest
from mq_connector import Connection, Publisher
from mq_connector.errors import NotConnected, PublishError
from waiting import eventually

from .broker import LIMITED, POWERLESS, VHOST, Broker
from .peer import Peer
from .proxy import Proxy

Make = Callable[..., Publisher]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def make(broker: Broker) -> Iterator[Make]:
    """Publishers that are closed with their test."""
    made: list[Publisher] = []

    def make(at: pika.ConnectionParameters | None = None, **options: Any) -> Publisher:
        made.append(Publisher(Connection([at or broker.parameters()]), **options))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close(1.0)


def error_of(future: Future[None]) -> str:
    """What a message failed of, in words."""
    error = future.exception(10)
    assert isinstance(error, PublishError), error
    return str(error)


def test_a_confirmed_message_is_in_its_queue(peer: Peer, queue: str, make: Make) -> None:
    peer.declare(queue, durable=True)
    publisher = make()
    properties = pika.BasicProperties(message_id="m1", headers={"a": [1, "b"]}, delivery_mode=2)
    assert publisher.publish("", queue, b"hi", properties).result(60) is None
    taken, body = peer.take(queue)
    assert body == b"hi"
    assert (taken.message_id, taken.headers, taken.delivery_mode) == ("m1", {"a": [1, "b"]}, 2)


def test_many_threads_publish_and_each_future_is_confirmed(
    peer: Peer, queue: str, make: Make
) -> None:
    peer.declare(queue, durable=True)
    publisher = make(window=200)
    futures: list[Future[None]] = []

    def publish(first: int) -> None:
        futures.extend(publisher.publish("", queue, b"%d" % n) for n in range(first, first + 500))

    threads = [threading.Thread(target=publish, args=(start,)) for start in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    done, waiting = wait(futures, 30)
    assert len(done) == 2000 and not waiting
    assert all(future.exception() is None for future in done)
    found = [int(peer.take(queue)[1]) for _ in range(2000)]
    assert sorted(found) == list(range(2000))
    for first in range(0, 2000, 500):
        # In the order in which each thread has published.
        assert [n for n in found if first <= n < first + 500] == list(range(first, first + 500))


def test_what_no_queue_takes_is_reported_and_nothing_else(
    peer: Peer, queue: str, make: Make
) -> None:
    peer.declare(queue, durable=True)
    publisher = make()
    good = [publisher.publish("", queue, b"same") for _ in range(20)]
    bad = [publisher.publish("", f"{queue}.nobody", b"same") for _ in range(20)]
    good += [publisher.publish("", queue, b"same") for _ in range(20)]
    for future in bad:
        assert f"312 NO_ROUTE: exchange '', routing key '{queue}.nobody'" in error_of(future)
    assert [future.result(60) for future in good] == [None] * 40
    peer.rests_at(queue, 40)


def test_properties_may_be_used_again_for_the_next_message(
    peer: Peer, queue: str, make: Make
) -> None:
    peer.declare(queue, durable=True)
    publisher = make()
    properties = pika.BasicProperties()
    for number in range(20):
        properties.message_id = str(number)
        publisher.publish("", queue, b"x", properties)
    assert [peer.take(queue)[0].message_id for _ in range(20)] == [str(n) for n in range(20)]


def test_what_need_not_be_routed_is_confirmed_unrouted(make: Make, queue: str) -> None:
    publisher = make()
    assert publisher.publish("", queue, b"x", mandatory=False).result(60) is None


def test_what_a_full_queue_refuses_is_reported(peer: Peer, queue: str, make: Make) -> None:
    full = f"{queue}.full"
    arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
    peer.declare(full, durable=True, arguments=arguments)
    publisher = make()
    futures = [publisher.publish("", full, b"%d" % number) for number in range(50)]
    outcomes = [future.exception(10) for future in futures]
    taken = [number for number, outcome in enumerate(outcomes) if outcome is None]
    # The broker may take some beyond the limit before it notices; none of those it has refused.
    assert len(taken) == peer.count(full)[0] < 50
    assert [int(peer.take(full)[1]) for _ in taken] == taken
    refused = [str(each) for each in outcomes if each is not None]
    assert all("basic.nack" in each for each in refused)
    assert publisher.publish("", full, b"room again").result(60) is None


def test_a_missing_exchange_costs_nobody_else(peer: Peer, queue: str, make: Make) -> None:
    """404 closes the channel. One exchange's name begins as the other's, and one is part of a word."""
    for exchange in (queue, "ex"):
        peer.channel.exchange_declare(exchange, "fanout")
        peer.channel.queue_bind(peer.declare(f"{exchange}.to", durable=True), exchange)
    peer.channel.queue_purge("ex.to")
    publisher = make()
    good, bad = [], []
    for number in range(100):
        for exchange in (queue, "ex"):
            good.append(publisher.publish(exchange, "", b"%d" % number))
        if number % 25 == 10:
            bad.append(publisher.publish(f"{queue}s", "", b"lost"))
    for future in bad:
        assert f"no exchange '{queue}s'" in error_of(future)
    assert [future.exception(10) for future in good] == [None] * 200
    for exchange in (queue, "ex"):
        count = peer.count(f"{exchange}.to")[0]
        assert {int(peer.take(f"{exchange}.to")[1]) for _ in range(count)} == set(range(100))
    for name in (queue, "ex"):
        peer.channel.exchange_delete(name)


@pytest.mark.parametrize("position", [0, 37, 99])
def test_a_message_that_the_broker_cannot_take_costs_nobody_else(
    peer: Peer, queue: str, make: Make, position: int
) -> None:
    """406 closes the channel without a word on which message it was."""
    peer.declare(queue, durable=True)
    publisher = make()
    futures = []
    for number in range(100):
        expiration = "soon" if number == position else None
        properties = pika.BasicProperties(expiration=expiration)
        futures.append(publisher.publish("", queue, b"%d" % number, properties))
    assert "expiration" in error_of(futures[position])
    rest = [future for future in futures if future is not futures[position]]
    assert [future.exception(10) for future in rest] == [None] * 99
    found = {int(peer.take(queue)[1]) for _ in range(peer.count(queue)[0])}
    assert found == set(range(100)) - {position}
    assert publisher.publish("", queue, b"next").result(60) is None


def test_two_messages_that_the_broker_cannot_take_are_both_found(
    peer: Peer, queue: str, make: Make
) -> None:
    peer.declare(queue, durable=True)
    publisher = make()
    odd = {10: pika.BasicProperties(expiration="soon"), 20: pika.BasicProperties(user_id="me")}
    futures = [publisher.publish("", queue, b"%d" % n, odd.get(n)) for n in range(50)]
    outcomes = [future.exception(10) for future in futures]
    assert [number for number, outcome in enumerate(outcomes) if outcome] == [10, 20]
    assert "expiration" in str(outcomes[10]) and "user_id" in str(outcomes[20])


def test_what_cannot_be_encoded_fails_alone(peer: Peer, queue: str, make: Make) -> None:
    peer.declare(queue, durable=True)
    publisher = make()
    unheard_of: Any = object()
    bad = [
        publisher.publish("", "k" * 256, b"x"),
        publisher.publish("", queue, b"x", pika.BasicProperties(headers={"a": unheard_of})),
        publisher.publish("", queue, b"x", pika.BasicProperties(priority=1000)),
        publisher.publish("", queue, b"x", pika.BasicProperties(message_id="i" * 256)),
    ]
    good = publisher.publish("", queue, b"good")
    assert good.result(60) is None
    assert "256 bytes" in error_of(bad[0])
    for future in bad:
        error_of(future)
    peer.rests_at(queue, 1)


def test_an_array_costs_nobody_else(peer: Peer, queue: str, make: Make) -> None:
    """Its length is how many numbers it holds: a frame of that size would cost the connection."""
    peer.declare(queue)
    publisher = make()
    samples: Any = array("h", range(100))
    done = [publisher.publish("", queue, each) for each in (b"before", samples, b"behind")]
    assert [each.exception(60) for each in done] == [None] * 3
    assert [peer.take(queue)[1] for _ in done] == [b"before", samples.tobytes(), b"behind"]


def test_where_we_may_not_write_it_says_so_for_each_message(
    broker: Broker, queue: str, make: Make
) -> None:
    broker.ctl("set_permissions", "-p", VHOST, POWERLESS, "^$", r"^amq\.direct$", "^$")
    publisher = make(broker.parameters(user=POWERLESS))
    try:
        denied = [publisher.publish("", queue, b"%d" % number) for number in range(20)]
        allowed = publisher.publish("amq.direct", "nobody", b"x", mandatory=False)
        for future in denied:
            assert "403" in error_of(future) and "amq.default" in error_of(future)
        assert allowed.result(60) is None
    finally:
        broker.ctl("set_permissions", "-p", VHOST, POWERLESS, "^$", "^$", "^$")


def test_a_topic_that_is_denied_costs_no_other_topic(
    broker: Broker, peer: Peer, queue: str, make: Make
) -> None:
    """The broker's words name the exchange, which is allowed, beside the topic, which isn't."""
    peer.channel.exchange_declare("topics", "topic")
    peer.declare(queue, durable=True)
    peer.channel.queue_bind(queue, "topics", "#")
    broker.ctl("set_topic_permissions", "-p", VHOST, LIMITED, "topics", "^ours", "^$")
    publisher = make(broker.parameters(user=LIMITED))
    try:
        futures = [
            publisher.publish("topics", "theirs" if number == 7 else "ours", b"%d" % number)
            for number in range(20)
        ]
        outcomes = [future.exception(10) for future in futures]
        assert [number for number, outcome in enumerate(outcomes) if outcome] == [7]
        assert "topic 'theirs'" in str(outcomes[7])
    finally:
        broker.ctl("clear_topic_permissions", "-p", VHOST, LIMITED)
        peer.channel.exchange_delete("topics")


def test_the_window_pushes_back(broker: Broker, peer: Peer, queue: str, make: Make) -> None:
    """A proxy that passes nothing on keeps the confirms from coming."""
    peer.declare(queue, durable=True)
    with Proxy(broker.port) as proxy:
        publisher = make(broker.parameters(port=proxy.port), window=10)
        assert publisher.publish("", queue, b"first").result(60) is None
        proxy.halt()
        held = [publisher.publish("", queue, b"%d" % number) for number in range(10)]
        began = time.monotonic()
        with pytest.raises(NotConnected, match="10 messages wait for their confirm"):
            publisher.publish("", queue, b"too many", timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 15
        late: list[Future[None]] = []
        pusher = threading.Thread(
            target=lambda: late.append(publisher.publish("", queue, b"waited", timeout=60))
        )
        pusher.start()
        time.sleep(0.2)
        assert not late, "published in spite of a full window"
        proxy.end(reset=True)  # and the next connection passes
        pusher.join(60)
        assert [future.result(60) for future in [*held, *late]] == [None] * 11


def test_a_future_s_callback_may_publish_and_is_never_kept_waiting(
    peer: Peer, queue: str, make: Make
) -> None:
    """It runs on the loop: waiting there for room would wait for itself."""
    peer.declare(queue, durable=True)
    publisher = make(window=1)
    chained: list[Any] = []

    def go_on(_: Future[None]) -> None:
        try:
            chained.append(publisher.publish("", queue, b"second"))
        except NotConnected as error:
            chained.append(error)

    first = publisher.publish("", queue, b"first")
    first.add_done_callback(go_on)
    eventually(lambda: chained)
    assert chained[0].result(60) is None


def test_a_future_s_callback_ends_no_thread_and_keeps_no_other_from_its_confirm(
    peer: Peer, queue: str, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """As where who publishes wants to end the program if that fails."""
    peer.declare(queue)
    publisher = make()

    def leave(_: Future[None]) -> None:
        raise SystemExit(3)

    def publish() -> list[Future[None]]:
        done = [publisher.publish("", queue, b"x") for _ in range(20)]
        for each in done:
            with suppress(SystemExit):  # a message that is confirmed already has it called here
                each.add_done_callback(leave)
        return done

    publisher.publish("", queue, b"x").result(60)
    done = [*publish(), *publish()]
    assert [each.exception(60) for each in done] == [None] * 40
    assert "connection lost" not in caplog.text and "loop of a connection" not in caplog.text


def test_a_message_under_way_cannot_be_cancelled(peer: Peer, queue: str, make: Make) -> None:
    peer.declare(queue, durable=True)
    publisher = make()
    futures = [publisher.publish("", queue, b"x") for _ in range(100)]
    assert not any(future.cancel() for future in futures)
    assert [future.result(60) for future in futures] == [None] * 100
