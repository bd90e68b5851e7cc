"""Consumers that outlive what is done to them, and their threads by themselves."""

from __future__ import annotations

import threading
import time
from typing import Any

from waiting import eventually

from .checklist import scenario
from .lab import Lab
from .scenarios_consuming import Taken

CLASSES = ("SelectConsumerThread", "BlockingConsumerThread")


class Reports:
    """A handler of errors that keeps them."""

    def __init__(self, errors: list[Any]) -> None:
        self.errors = errors

    def __call__(self, *given: Any) -> None:
        self.errors.append(given)


# ---- survival


@scenario(
    "survival",
    incumbent_fails="its channel dies and it still says that it consumes (406, 404, bad ack)",
)
def a_refused_declaration_costs_nothing(lab: Lab) -> None:
    taken = Taken()

    def declare(channel: Any, *given: Any) -> None:
        if not taken:
            taken.append(b"")
            channel.queue_declare(other, durable=True)
        else:
            taken(channel, *given)

    other = lab.name()
    connector = lab.consume(declare, on_error=lambda *_: None)
    peer = lab.peer()
    peer.declare(other, exclusive=True)
    peer.send(connector.queue, {})
    time.sleep(0.5)
    peer.send(connector.queue, {})
    taken.eventually(2)
    assert connector.check_health()


@scenario("survival", incumbent_fails="a second ack closes its channel, and nothing says so")
def a_second_ack_costs_nothing(lab: Lab) -> None:
    taken = Taken()

    def twice(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        channel.basic_ack(method.delivery_tag)
        taken.append(body)

    connector = lab.consume(twice, auto_ack=False, on_error=lambda *_: None)
    peer = lab.peer()
    peer.send(connector.queue, {})
    time.sleep(0.5)
    peer.send(connector.queue, {})
    taken.eventually(2)


@scenario("survival", incumbent_fails="after its queue was deleted it says that it consumes")
def a_deleted_queue_is_consumed_again_or_reported(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken)
    peer = lab.peer()
    peer.channel.queue_delete(connector.queue)
    time.sleep(1)
    if connector.check_health():
        peer.send(connector.queue, {})
        taken.eventually(1)


@scenario("survival", by_chance=True, incumbent_fails="it waits a minute before it connects again")
def connections_that_the_broker_closes_come_back(lab: Lab) -> None:
    taken = Taken()
    connector = lab.consume(taken)
    lab.ask_host("close_connections")
    time.sleep(0.2)
    eventually(lambda: connector.consumers["it"].is_consuming, what="consuming again")
    lab.peer().send(connector.queue, {})
    taken.eventually(1)


@scenario(
    "survival",
    by_chance=True,
    incumbent_fails="callbacks run on the I/O loop, where no heartbeat is answered",
)
def a_slow_handler_keeps_its_connection(lab: Lab) -> None:
    redelivered: list[bool] = []

    def slow(channel: Any, method: Any, *_: Any) -> None:
        redelivered.append(method.redelivered)
        if len(redelivered) == 1:
            time.sleep(5)
        channel.basic_ack(method.delivery_tag)

    lab.hurry()
    queue = lab.name()
    options = {"connection_params": lab.parameters(heartbeat=1), "auto_ack": False}
    thread = lab.thread(slow, lambda *_: None, queue=queue, **options)
    thread.start()
    lab.consumes(thread)
    peer = lab.peer()
    peer.declare(queue)
    peer.send(queue, {})
    eventually(lambda: redelivered)
    time.sleep(7)
    assert redelivered == [False]


# ---- the threads by themselves


@scenario("thread")
def a_thread_knows_its_state(lab: Lab) -> None:
    for cls in CLASSES:
        thread = lab.thread(Taken(), cls=cls)
        assert thread.is_consumer_alive and not thread.is_consuming
        thread.start()
        lab.consumes(thread)
        assert thread.is_consumer_alive
        thread.join(30)
        assert not thread.is_consumer_alive and not thread.is_consuming
        assert not thread.is_alive()


@scenario("thread")
def a_thread_takes_the_options_of_a_consumer(lab: Lab) -> None:
    for cls in CLASSES:
        taken = Taken()
        exchange, queue = lab.name("exchange"), lab.name()
        thread = lab.thread(
            taken,
            error_func=lambda *_: None,
            auto_ack=True,
            queue_reset=True,
            queue_exclusive=False,
            exchange=exchange,
            exchange_reset=True,
            exchange_type="fanout",
            cls=cls,
            queue=queue,
            name="its name",
        )
        assert thread.name == "its name"
        thread.start()
        lab.consumes(thread)
        lab.peer().send("", {"a": 1}, exchange)
        taken.eventually(1)


@scenario("thread")
def a_port_without_a_broker_is_reported_once(lab: Lab) -> None:
    lab.hurry()
    parameters = lab.parameters(port=lab.proxy().port)
    for cls in CLASSES:
        errors: list[Any] = []
        report = Reports(errors)
        thread = lab.thread(Taken(), report, cls=cls, connection_params=parameters)
        thread.start()
        eventually(report.errors.copy)
        time.sleep(1)
        assert len(errors) == 1 and errors[0][0] is thread
        assert isinstance(errors[0][1], Exception)
        assert not thread.is_consuming
        thread.join(1)


@scenario("thread")
def a_thread_consumes_again_after_an_outage(lab: Lab) -> None:
    lab.hurry()
    proxy = lab.proxy()
    proxy.up()
    taken = Taken()
    queue = lab.name()
    parameters = lab.parameters(port=proxy.port)
    thread = lab.thread(taken, lambda *_: None, queue=queue, connection_params=parameters)
    thread.start()
    lab.consumes(thread)
    proxy.down()
    eventually(lambda: not thread.is_consuming)
    proxy.up()
    lab.consumes(thread)
    lab.peer().send(queue, {})
    taken.eventually(1)


@scenario(
    "thread", wire=False, incumbent_fails="the constructor runs a loop where there is none yet"
)
def a_thread_can_be_made_in_any_thread(lab: Lab) -> None:
    made: list[Any] = []
    maker = threading.Thread(target=lambda: made.append(lab.thread(Taken())), daemon=True)
    maker.start()
    maker.join(3 if lab.kind == "incumbent" else 30)
    assert made
