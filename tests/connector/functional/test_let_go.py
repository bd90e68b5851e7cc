"""What has failed is let go at once: neither an error nor its traceback keeps a request until a garbage collection."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest
from mq_connector import Connection, ConsumerThread, MQConnector, Request, respond
from mq_connector.client import Client
from mq_connector.connection.address import Address
from mq_connector.errors import MQError, StartError
from mq_connector.handlers.event_loop import drop
from mq_connector.publisher import Publisher
from waiting import eventually

from .broker import PASSWORD, USER, VHOST, Broker
from .peer import Peer

#: Failures of each kind.
TIMES = 200


class Failing(MQConnector):
    """Its handlers fail, each in a way of its own."""

    def __init__(self, port: int, queue: str, kind: str) -> None:
        user = {"username": USER, "password": PASSWORD}
        super().__init__({"server": "127.0.0.1", "port": port, "users": {"mine": user}}, "mine")
        self.vhost = VHOST
        self.failed: list[str] = []
        handler = getattr(self, kind)

        def handle(channel: Any, _method: Any, properties: Any, body: bytes) -> Any:
            return respond(channel, Request.decode(body, properties), handler)

        self.consumers = {queue: ConsumerThread(self.create_mq_connection(), queue, handle)}

    def raises(self, _: dict[Any, Any]) -> dict[Any, Any]:
        self.failed.append("raised")
        raise ValueError("no good")

    async def raises_async(self, _: dict[Any, Any]) -> dict[Any, Any]:
        self.failed.append("raised")
        raise ValueError("no good")

    def asks(self, _: dict[Any, Any]) -> dict[Any, Any]:
        try:
            self.ask("nowhere", {"n": 1})
        except MQError as error:
            self.failed.append(type(error).__name__)
        return {}

    async def asks_async(self, _: dict[Any, Any]) -> dict[Any, Any]:
        try:
            await self.ask_async("nowhere", {"n": 1})
        except MQError as error:
            self.failed.append(type(error).__name__)
        return {}

    def sends(self, _: dict[Any, Any]) -> dict[Any, Any]:
        try:
            self.publish("", "nowhere", {"n": 1})
        except MQError as error:
            self.failed.append(type(error).__name__)
        return {}

    async def sends_async(self, _: dict[Any, Any]) -> dict[Any, Any]:
        try:
            await self.publish_async("", "nowhere", {"n": 1})
        except MQError as error:
            self.failed.append(type(error).__name__)
        return {}


@pytest.fixture
def uncollected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No garbage collection, and no log that pytest would keep with what it tells of."""
    caplog.set_level(logging.CRITICAL, "mq_connector")
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.alone  # others' cycles would be counted
@pytest.mark.parametrize(
    "kind",
    ["raises", "raises_async", "asks", "asks_async", "sends", "sends_async"],
)
def test_what_has_failed_leaves_no_cycle(
    broker: Broker, peer: Peer, queue: str, uncollected: None, kind: str
) -> None:
    service = Failing(broker.port, queue, kind)
    service.run()
    try:
        eventually(service.check_health, what="consuming")
        for count in (10, 10 + TIMES):
            gc.collect()
            for number in range(count - len(service.failed)):
                peer.publish(queue, {"number": number})
            eventually(lambda: len(service.failed) == count, what="all have failed")  # noqa: B023
            peer.rests_at(queue, 0)
        assert gc.collect() < TIMES
        assert len({*service.failed}) == 1
    finally:
        service.stop(5)


def length(traceback: TracebackType | None) -> int:
    """How many calls it has."""
    count = 0
    while traceback is not None:
        traceback, count = traceback.tb_next, count + 1
    return count


def publishing(connection: Connection) -> tuple[Any, Callable[[], object]]:
    publisher = Publisher(connection)
    return publisher, lambda: publisher.publish("", "x", b"x").result(60)


def asking(connection: Connection) -> tuple[Any, Callable[[], object]]:
    client = Client(connection)
    return client, lambda: client.request("x", {"n": 1}, 60)


@pytest.mark.parametrize("made", [publishing, asking])
def test_the_traceback_of_a_lasting_refusal_does_not_grow(
    broker: Broker, made: Callable[[Connection], tuple[Any, Callable[[], object]]]
) -> None:
    """It is the same error each time, and would keep all that the callers' frames hold."""
    who, use = made(Connection(Address([broker.parameters(vhost="/nowhere")])))
    lengths = []
    with who:
        for _ in range(20):
            with pytest.raises(StartError) as caught:
                use()
            lengths.append(length(caught.value.__traceback__))
    assert max(lengths) <= 2 * lengths[-1]
    assert max(lengths) < 20


def test_a_handler_that_is_not_begun_is_not_complained_of() -> None:
    """Python would say of the handler's own coroutine that it was never awaited."""

    async def answer(_: Any) -> dict[Any, Any]:
        await asyncio.sleep(0)
        return {}

    request = Request.decode(b'{"message_id": "1", "routing_key": "x"}')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drop(respond(None, request, answer))  # type: ignore[arg-type]
        gc.collect()
    said = [str(each.message) for each in caught]  # of what other tests have left behind, too
    assert [each for each in said if "never awaited" in each] == []
