"""What a handler may be, on a real broker: the harness's own table, and what only a broker shows."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mq_connector import ConsumerThread, MQConnector, RequestError
from mq_connector.config import Limits
from waiting import eventually

from ..shapes import SCENARIOS, Scenario, Shape
from .broker import Broker
from .conftest import Consume
from .peer import Peer

Serve = Callable[..., ConsumerThread]


@pytest.fixture
def serve(broker: Broker, queue: str) -> Iterator[Serve]:
    """Run a service with one consumer; it ends with the test."""
    services: list[MQConnector] = []

    def start(service: Shape, within: float = 5.0, **limits: Any) -> ConsumerThread:
        consumer = ConsumerThread(
            broker.parameters(),
            queue,
            service.handle_api_input,
            limits=Limits(queue_type="quorum", **limits),
        )
        service.consumers = {queue: consumer}
        services.append(service)
        service.run()
        eventually(lambda: consumer.is_consuming, within, "the consumer consumes")
        return consumer

    yield start
    for service in services:
        service.stop(1.0)
        assert not [each for each in service.consumers.values() if each.is_alive()]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_a_broker_s_client_sees_of_each_handler_what_the_table_says(
    scenario: Scenario, peer: Peer, queue: str, serve: Serve
) -> None:
    dead = peer.declare_dead(queue)
    service = scenario.service()
    serve(service, rejected=scenario.rejected)
    replies = peer.request(queue, **{"message_id": "m", **scenario.request})
    for expected in scenario.replies:
        assert peer.reply(replies) == {**expected, "message_id": "m"}
    service.stop(5.0)
    peer.rests_at(dead, int(scenario.is_dead))
    assert peer.count(queue)[0] == peer.count(replies)[0] == 0
    assert service.log == scenario.log


class Together(Shape):
    """Answers when as many as are to run at a time do so."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.most = self.running = self.done = 0
        self.count = count
        self.threads: set[str] = set()

    async def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.threads.add(threading.current_thread().name)
        while self.most < self.count:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        self.running -= 1
        self.done += 1
        return {}


def test_as_many_tasks_run_at_a_time_as_there_are_workers_and_no_more_threads(
    peer: Peer, queue: str, serve: Serve
) -> None:
    service = Together(200)
    before = threading.active_count()
    serve(service, workers=200)
    replies = peer.declare("")
    for _ in range(500):
        peer.request(queue, replies)
    # Not by the replies: unread, one expires after a second.
    eventually(lambda: service.done == 500)
    assert service.most == 200
    assert service.threads == {"mq-async"}
    assert threading.active_count() < before + 10


def test_one_worker_keeps_the_order_of_async_handlers(peer: Peer, queue: str, serve: Serve) -> None:
    class InOrder(Shape):
        async def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
            await asyncio.sleep(0.02 if request["n"] == 0 else 0)
            return {"n": request["n"]}

    serve(InOrder())
    replies = peer.declare("")
    for number in range(20):
        peer.request(queue, replies, n=number)
    assert [peer.reply(replies)["n"] for _ in range(20)] == [*range(20)]


class Lasting(Shape):
    """Takes as long as the test wants it to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
        self.begun.set()
        try:
            while not self.may_end.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {"done": True}


def test_a_drain_lets_a_task_end(peer: Peer, queue: str, serve: Serve) -> None:
    service = Lasting()
    consumer = serve(service)
    replies = peer.request(queue)
    assert service.begun.wait(10)
    consumer.stop(20)
    service.may_end.set()
    assert peer.reply(replies)["done"] is True
    consumer.join(10)
    peer.rests_at(queue, 0)
    assert not service.cancelled.is_set()


def test_at_a_drain_s_deadline_a_task_is_cancelled_and_its_message_comes_again(
    peer: Peer, queue: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    dead = peer.declare_dead(queue)
    service = Lasting()
    consumer = serve(service)
    peer.request(queue)
    assert service.begun.wait(10)
    consumer.stop(0.1)
    assert service.cancelled.wait(10)
    consumer.join(10)
    assert consumer.unfinished == 1
    peer.rests_at(queue, 1)
    peer.rests_at(dead, 0)
    assert "dead-lettered" not in caplog.text


def test_a_task_s_reply_leaves_before_its_message_is_acknowledged_and_after_a_loss_as_well(
    broker: Broker, peer: Peer, queue: str, serve: Serve
) -> None:
    service = Lasting()
    consumer = serve(service)
    replies = peer.request(queue, message_id="m")
    assert service.begun.wait(10)
    link = consumer._supervision._link
    assert link is not None
    consumer.connection.call(link.transport.abort)
    eventually(lambda: not consumer.is_consuming, 10)
    service.may_end.set()
    eventually(lambda: consumer.is_consuming, 10)
    # It was the broker's again, so it comes twice: what was answered before the loss was known, too.
    assert peer.reply(replies)["message_id"] == "m"
    assert peer.reply(replies)["message_id"] == "m"
    consumer.stop(5)
    consumer.join(10)
    peer.rests_at(queue, 0)


def test_what_a_task_publishes_to_an_exchange_is_confirmed_before_its_message_is_acknowledged(
    peer: Peer, queue: str, consume: Consume
) -> None:
    dead = peer.declare_dead(queue)

    async def publish(channel: Any, *_: Any) -> None:
        await asyncio.sleep(0)
        channel.basic_publish("no such exchange", "x", b"x")

    consume(publish)
    peer.publish(queue, b"x")
    peer.rests_at(dead, 1)


def test_a_handler_that_keeps_the_event_loop_is_named(
    peer: Peer, queue: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Blocking(Shape):
        async def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
            self.hold()
            return {}

        def hold(self) -> None:
            deadline = time.monotonic() + 60
            while "answer()" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.05)

    with caplog.at_level(logging.INFO):
        serve(Blocking())
        assert peer.ask(queue, 70) is not None
        assert (
            "answer() (" in caplog.text and "keeps the event loop for more than 1 s" in caplog.text
        )
        assert "in hold() (" in caplog.text
        eventually(lambda: "the event loop turns again" in caplog.text, 10)
        assert peer.ask(queue) is not None


def test_a_request_that_is_refused_is_of_one_line_and_costs_no_other(
    peer: Peer, queue: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Shape):
        def answer(self, request: dict[Any, Any]) -> dict[Any, Any]:
            if request.get("bad"):
                raise RequestError(401, "who are you?\n")
            return {}

    with caplog.at_level(logging.INFO):
        serve(Refusing())
        assert peer.ask(queue, bad=True)["code"] == 401
        assert "code" not in peer.ask(queue)
    [line] = [each.getMessage() for each in caplog.records if "refused" in each.getMessage()]
    assert line.endswith("is refused: 401 who are you?\\n")


def test_tasks_that_are_stuck_count_for_the_health_check(
    peer: Peer, queue: str, serve: Serve
) -> None:
    service = Lasting()
    serve(service, workers=2, stuck=1)
    replies = peer.declare("")
    for _ in range(2):
        peer.request(queue, replies)

    def looked() -> str:
        found: list[str] = []
        service.look(found.append)
        eventually(lambda: found, 10)
        return found[0]

    assert looked() == ""
    eventually(lambda: "every worker has been in its callback for more than 1 s" in looked(), 15)
    service.may_end.set()
    eventually(lambda: not looked(), 10)
