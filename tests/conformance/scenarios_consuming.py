"""Consumers and subscribers, and what becomes of them."""

from __future__ import annotations

import time
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker
from waiting import eventually

from .checklist import scenario
from .lab import Lab, decode


class Taken(list[Any]):
    """A callback that keeps the bodies."""

    def __call__(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.append(body)

    def eventually(self, count: int, within: float | None = None) -> None:
        eventually(lambda: len(self) >= count, within, f"{count} messages, got {len(self)}")


# ---- register_consumer


@scenario("register_consumer")
def a_consumer_gets_what_pika_gives(lab: Lab) -> None:
    calls: list[Any] = []
    connector = lab.consume(lambda *given: calls.append(given))
    peer = lab.peer()
    peer.send(connector.queue, {"a": 1})
    channel, method, properties, body = eventually(lambda: calls)[0]
    assert isinstance(method, pika.spec.Basic.Deliver)
    assert isinstance(properties, pika.BasicProperties)
    assert method.routing_key == connector.queue
    assert decode(body) == {"a": 1}
    assert channel.is_open


@scenario("register_consumer")
def what_a_consumer_is_made_of_can_be_looked_up(lab: Lab) -> None:
    connector = lab.connector()
    taken = Taken()
    connector.register_consumer("it", connector.vhost, "somewhere", taken, restart_attempts=3)
    properties = connector.consumer_properties["it"]
    assert properties["restart_attempts"] == 3
    assert properties["started"] is False
    assert properties["properties"]["queue"] == "somewhere"
    assert properties["properties"]["callback_func"] is taken
    assert isinstance(connector.consumers["it"], connector.consumer_thread_cls)


@scenario("register_consumer")
def its_queue_is_as_clients_declare_it(lab: Lab) -> None:
    connector = lab.consume(Taken())
    assert lab.peer().declare(connector.queue) == connector.queue


@scenario("register_consumer")
def messages_keep_their_order(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken)
    peer = lab.peer()
    for number in range(200):
        peer.send(connector.queue, {"number": number})
    taken.eventually(200)
    assert [decode(body)["number"] for body in taken] == list(range(200))


@scenario("register_consumer")
def without_auto_ack_the_callback_settles(lab: Lab) -> None:
    given: list[Any] = []
    connector = lab.consume(lambda *each: given.append(each), auto_ack=False)
    peer = lab.peer()
    for number in range(3):
        peer.send(connector.queue, {"number": number})
    eventually(lambda: len(given) == 3)
    given[0][0].basic_ack(delivery_tag=given[0][1].delivery_tag)
    time.sleep(0.3)
    connector.stop_consumers()
    eventually(lambda: peer.count(connector.queue) == 2)
    assert decode(peer.take(connector.queue)[1]) == {"number": 1}


@scenario("register_consumer")
def without_auto_ack_a_message_can_be_refused(lab: Lab) -> None:
    seen: list[bool] = []

    def refuse_once(channel: Any, method: Any, *_: Any) -> None:
        seen.append(method.redelivered)
        if method.redelivered:
            channel.basic_ack(delivery_tag=method.delivery_tag)
        else:
            channel.basic_nack(delivery_tag=method.delivery_tag)

    connector = lab.consume(refuse_once, auto_ack=False)
    lab.peer().send(connector.queue, {"a": 1})
    eventually(lambda: seen == [False, True])


@scenario("register_consumer")
def queue_reset_empties_the_queue(lab: Lab) -> None:
    taken = Taken()
    queue = lab.name()
    peer = lab.peer()
    peer.declare(queue)
    peer.send(queue, {"old": True})
    lab.consume(taken, queue, queue_reset=True)
    peer.send(queue, {"old": False})
    taken.eventually(1)
    assert [decode(body) for body in taken] == [{"old": False}]


@scenario("register_consumer")
def an_exchange_is_declared_and_bound(lab: Lab) -> None:
    taken = Taken()
    exchange = lab.name("exchange")
    connector = lab.consume(taken, exchange=exchange, exchange_type="direct")
    lab.peer().send(connector.queue, {"a": 1}, exchange)
    taken.eventually(1)


@scenario("register_consumer")
def exchange_reset_makes_it_anew(lab: Lab) -> None:
    taken = Taken()
    exchange = lab.name("exchange")
    peer = lab.peer()
    peer.channel.exchange_declare(exchange, "topic")
    lab.consume(taken, exchange=exchange, exchange_type="fanout", exchange_reset=True)
    peer.send("anything", {"a": 1}, exchange)
    taken.eventually(1)


@scenario("register_consumer")
def an_exclusive_queue_is_nobody_elses(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken, queue_exclusive=True)
    peer = lab.peer()
    peer.send(connector.queue, {"a": 1})
    taken.eventually(1)
    try:
        peer.connection.channel().queue_declare(connector.queue, passive=True)
    except ChannelClosedByBroker as error:
        assert error.reply_code == 405
    else:
        raise AssertionError("the queue isn't exclusive")
    connector.stop_consumers()
    eventually(lambda: not peer.exists(connector.queue))


@scenario("register_consumer")
def an_existing_name_is_skipped_or_replaced(lab: Lab) -> None:
    first, second = Taken(), Taken()
    connector = lab.consume(first)
    before = connector.consumers["it"]
    arguments = ("it", connector.vhost, connector.queue, second)
    connector.register_consumer(*arguments, skip_on_existing=True)
    assert connector.consumers["it"] is before
    connector.register_consumer(*arguments)
    assert connector.consumers["it"] is not before
    assert not before.is_consumer_alive
    connector.run_consumers()
    lab.consumes(connector.consumers["it"])
    lab.peer().send(connector.queue, {"a": 1})
    second.eventually(1)
    assert not first


# ---- register_subscriber


@scenario("register_subscriber")
def every_subscriber_gets_every_message(lab: Lab) -> None:
    exchange = lab.name("exchange")
    taken = [Taken() for _ in range(3)]
    connector = lab.connector()
    for number, callback in enumerate(taken):
        connector.register_subscriber(f"s{number}", connector.vhost, callback, exchange=exchange)
    lab.run(connector)
    for number in range(20):
        connector.send_message({"n": number}, exchange=exchange, exchange_type="fanout")
    for each in taken:
        each.eventually(20)
        assert [decode(body)["n"] for body in each] == list(range(20))


@scenario("register_subscriber")
def subscribers_have_queues_of_their_own(lab: Lab) -> None:
    exchange = lab.name("exchange")
    connector = lab.connector()
    for name in ("one", "two"):
        connector.register_subscriber(name, connector.vhost, Taken(), exchange=exchange)
    queues = {consumer.queue for consumer in connector.consumers.values()}
    assert len(queues) == 2
    assert all(queue.startswith(f"subscriber_{exchange}_") for queue in queues)
    assert all(len(queue.rsplit("_", 1)[1]) == 6 for queue in queues)


@scenario("register_subscriber")
def a_subscribers_errors_are_reported(lab: Lab) -> None:
    exchange = lab.name("exchange")
    errors: list[Any] = []

    def fail(*_: Any) -> None:
        raise ValueError("no")

    connector = lab.connector()
    report = lambda *given: errors.append(given)  # noqa: E731
    connector.register_subscriber("it", connector.vhost, fail, report, exchange=exchange)
    lab.run(connector)
    connector.send_message({"a": 1}, exchange=exchange, exchange_type="fanout")
    eventually(lambda: errors)
    assert isinstance(errors[0][1], ValueError)


# ---- on_error


@scenario("on_error")
def an_exception_reaches_the_handler_and_the_next_message_is_handled(lab: Lab) -> None:
    taken, errors = Taken(), []

    def sometimes(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if decode(body)["bad"]:
            raise ValueError("bad one")
        taken.append(body)

    connector = lab.consume(sometimes, on_error=lambda *given: errors.append(given))
    peer = lab.peer()
    for bad in (False, True, False):
        peer.send(connector.queue, {"bad": bad})
    taken.eventually(2)
    eventually(lambda: errors)
    thread, error = errors[0]
    assert thread is connector.consumers["it"]
    assert isinstance(error, ValueError) and str(error) == "bad one"


@scenario("on_error")
def a_handler_of_errors_that_raises_does_no_harm(lab: Lab) -> None:
    taken = Taken()

    def fail_first(*given: Any) -> None:
        taken(*given)
        if len(taken) == 1:
            raise ValueError

    connector = lab.consume(fail_first, on_error=lambda thread, error: None)
    peer = lab.peer()
    peer.send(connector.queue, {})
    peer.send(connector.queue, {})
    taken.eventually(2)


@scenario(
    "on_error", incumbent_fails="a failed message stays unsettled; fifty of them stall the consumer"
)
def failed_messages_do_not_stall_a_consumer(lab: Lab) -> None:
    taken = Taken()

    def settle_unless_bad(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if decode(body)["bad"]:
            raise ValueError
        channel.basic_ack(method.delivery_tag)
        taken.append(body)

    connector = lab.consume(settle_unless_bad, auto_ack=False, on_error=lambda *_: None)
    peer = lab.peer()
    for _ in range(250):
        peer.send(connector.queue, {"bad": True})
    peer.send(connector.queue, {"bad": False})
    taken.eventually(1)
