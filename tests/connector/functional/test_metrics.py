"""Metrics of a consumer at a real broker, whatever happens to it."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mq_connector import ConsumerThread, MQConnector, RetryMessage
from mq_connector.config import Limits
from mq_connector.metrics import Metrics
from prometheus_client.parser import text_string_to_metric_families
from running import free_port
from waiting import eventually

from .broker import Broker
from .conftest import echo
from .peer import Peer


class Observed:
    """A service of one consumer, with its metrics."""

    def __init__(self, broker: Broker, queue: str, handle: Callable[..., Any], **options: Any):
        self.queue = queue
        limits = Limits(workers=2, queue_type="quorum", stuck=options.pop("stuck", 0))
        self.consumer = ConsumerThread(broker.parameters(), queue, handle, limits=limits, **options)
        self.service = MQConnector(config={}, service_name="functional")
        self.service.consumers = {queue: self.consumer}
        self.port = free_port()
        self.metrics = Metrics(self.service.consumers, self.service.look, self.port)

    def get(self, path: str) -> tuple[int, str]:
        try:
            address = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(address, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def value(self, name: str) -> float:
        """A sample about the queue, or about no queue."""
        [found] = [
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if sample.name == name and sample.labels.get("queue", self.queue) == self.queue
        ]
        return found

    def comes_to(self, name: str, value: float) -> None:
        eventually(lambda: self.value(name) == value, 30, f"{name} is {value}")


Observe = Callable[..., Observed]


@pytest.fixture
def observe(queue: str) -> Iterator[Observe]:
    """Start a consumer with its metrics, and wait until it consumes."""
    started: list[Observed] = []

    def start(broker: Broker, handle: Callable[..., Any], **options: Any) -> Observed:
        one = Observed(broker, queue, handle, **options)
        started.append(one)
        one.service.run()
        eventually(lambda: one.consumer.is_consuming, 30, "the consumer consumes")
        return one

    yield start
    for one in started:
        one.service.stop(2)
        one.metrics.close()


def test_requests_and_replies_are_counted(broker: Broker, peer: Peer, observe: Observe) -> None:
    one = observe(broker, echo)
    reply_queue = peer.declare("")
    for _ in range(5):
        peer.request(one.queue, reply_queue)
    for _ in range(5):
        peer.reply(reply_queue)
    one.comes_to("mq_handler_seconds_count", 5)
    assert one.value("mq_messages_received_total") == 5
    assert one.value("mq_messages_answered_total") == 5
    assert one.value("mq_reply_delay_seconds_count") == 5
    assert one.value("mq_reply_delay_seconds_sum") > 0
    assert one.value("mq_messages_failed_total") == 0
    one.comes_to("mq_messages_in_flight", 0)
    assert one.value("mq_consumer_up") == 1


def test_what_is_in_hand_is_told(broker: Broker, peer: Peer, observe: Observe) -> None:
    may_go_on = threading.Event()
    one = observe(broker, lambda *_: may_go_on.wait(60))
    for _ in range(3):
        peer.publish(one.queue, {})
    one.comes_to("mq_messages_in_flight", 3)
    one.comes_to("mq_workers_busy", 2)
    assert one.value("mq_workers") == 2
    may_go_on.set()
    one.comes_to("mq_messages_in_flight", 0)
    one.comes_to("mq_workers_busy", 0)


def test_what_comes_to_nothing_is_counted_by_its_kind(
    broker: Broker, peer: Peer, observe: Observe
) -> None:
    seen: set[str] = set()

    def handle(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        what = body.decode()
        if what in seen:
            return  # it has come again
        seen.add(what)
        if what == "fails":
            raise ValueError("it fails")
        if what == "retries":
            raise RetryMessage(0.01)
        if what == "rejects":
            channel.basic_reject(method.delivery_tag, requeue=False)
        if what == "requeues":
            channel.basic_reject(method.delivery_tag, requeue=True)

    one = observe(broker, handle)
    for each in ("fails", "retries", "rejects", "requeues"):
        peer.publish(one.queue, each.encode(), message_id=f"id of what {each}")
    one.comes_to("mq_messages_received_total", 6)
    one.comes_to("mq_handler_seconds_count", 6)
    assert one.value("mq_messages_failed_total") == 1
    assert one.value("mq_messages_retried_total") == 1
    assert one.value("mq_messages_rejected_total") == 1
    assert one.value("mq_messages_requeued_total") == 1
    assert one.value("mq_messages_dead_lettered_total") == 2
    [error] = json.loads(one.get("/errors")[1])
    assert error["message_id"] == "id of what fails"


def test_a_publish_that_the_broker_refuses_is_its_message_s_failure(
    broker: Broker, peer: Peer, observe: Observe
) -> None:
    def handle(channel: Any, *_: Any) -> None:
        channel.basic_publish("there is none", "", b"")

    one = observe(broker, handle)
    peer.publish(one.queue, {})
    one.comes_to("mq_messages_failed_total", 1)
    one.comes_to("mq_messages_dead_lettered_total", 1)


def test_an_error_reply_is_a_reply(broker: Broker, peer: Peer, observe: Observe) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("it fails")

    one = observe(broker, fail)
    assert peer.ask(one.queue)["success"] is False
    one.comes_to("mq_messages_answered_total", 1)
    one.comes_to("mq_messages_failed_total", 1)


def test_health_doesn_t_depend_on_the_broker_readiness_does(
    victim: Broker, observe: Observe
) -> None:
    one = observe(victim, echo)
    assert one.get("/readyz") == (200, "consuming\n")
    victim.stop()
    try:
        eventually(lambda: one.get("/readyz")[0] == 503, 30, "it isn't ready")
        assert one.get("/healthz") == (200, "alive\n")
        assert one.value("mq_consumer_up") == 0
    finally:
        victim.start()
    eventually(lambda: one.get("/readyz")[0] == 200, 60, "it is ready again")
    assert one.value("mq_reconnects_total") >= 1
    assert one.value("mq_consumer_up") == 1


def test_all_workers_stuck_is_not_alive(broker: Broker, peer: Peer, observe: Observe) -> None:
    may_go_on = threading.Event()
    one = observe(broker, lambda *_: may_go_on.wait(60), stuck=1)
    for _ in range(2):
        peer.publish(one.queue, {})
    try:
        eventually(lambda: one.get("/healthz")[0] == 503, 30, "it isn't alive")
        assert "in its callback" in one.get("/healthz")[1]
    finally:
        may_go_on.set()
    eventually(lambda: one.get("/healthz")[0] == 200, 30, "it is alive again")


def test_a_consumer_that_stops_isn_t_ready_but_alive(
    broker: Broker, peer: Peer, observe: Observe
) -> None:
    """Or an orchestrator would kill what drains."""
    may_go_on = threading.Event()
    one = observe(broker, lambda *_: may_go_on.wait(60))
    peer.publish(one.queue, {})
    one.comes_to("mq_workers_busy", 1)
    one.consumer.stop(30)
    try:
        eventually(lambda: one.get("/readyz")[0] == 503, 30, "it isn't ready")
        assert one.get("/healthz") == (200, "alive\n")
    finally:
        may_go_on.set()
