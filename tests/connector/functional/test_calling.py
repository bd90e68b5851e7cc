"""Services that ask each other and publish, each over its one connection."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import pytest
from mq_connector import ConsumerThread, MQConnector, Request, payload
from mq_connector.errors import (
    NotConnected,
    PublishError,
    RequestTimeout,
    StartError,
    Unroutable,
    WouldWait,
)
from waiting import eventually

from ..asking import REQUEST, SCENARIOS, Scenario, without_id
from .broker import PASSWORD, SERVICE_VHOST, USER, VHOST, Broker
from .peer import Peer

pytestmark = pytest.mark.timeout(120)

Answer = Callable[[dict[Any, Any]], Mapping[Any, Any]]


class Service(MQConnector):
    """Answers by a function, from a queue of a name of its own."""

    def __init__(self, broker: Broker, answer: Answer | None = None, workers: int = 1) -> None:
        login = {"username": USER, "password": PASSWORD}
        super().__init__(
            {"server": "127.0.0.1", "port": broker.port, "users": {"calling": login}}, "calling"
        )
        self.vhost = VHOST
        self.queue = f"input.{uuid.uuid4().hex[:12]}"
        self.answer = answer
        #: Properties of what it was sent.
        self.seen: list[pika.BasicProperties] = []
        if answer is not None:
            self.consumers["input"] = ConsumerThread(
                connection=self.create_mq_connection(),
                queue=self.queue,
                callback_func=self.handle,
                workers=workers,
                prefetch=20,
            )

    def handle(self, channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        self.seen.append(properties)
        request = Request.decode(body, properties)
        assert self.answer is not None
        reply = self.answer(request.data)
        if request.reply_queue:
            channel.basic_publish(
                "",
                request.reply_queue,
                request.encode_reply(reply),
                request.reply_properties,
            )


Make = Callable[..., Service]


@pytest.fixture
def make(broker: Broker, peer: Peer) -> Iterator[Make]:
    """Start services; all end with the test."""
    made: list[Service] = []

    def start(answer: Answer | None = None, **options: Any) -> Service:
        one = Service(broker, answer, **options)
        made.append(one)
        one.run()
        eventually(lambda: one.check_health() or not one.consumers, 30)
        return one

    yield start
    for each in made:
        each.stop(1)
    for each in made:
        peer.channel.queue_delete(each.queue)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_on_a_broker_comes_what_the_table_says(
    scenario: Scenario, broker: Broker, make: Make, peer: Peer, queue: str
) -> None:
    asked: list[dict[Any, Any]] = []

    def other(request: dict[Any, Any]) -> Mapping[Any, Any]:
        asked.append(request)
        return scenario.other(request)

    login = {"username": USER, "password": PASSWORD}
    config = {"server": "127.0.0.1", "port": broker.port, "users": {"calling": login}}
    service = scenario.service(config, "calling")
    service.vhost = VHOST
    service.other = make(other).queue
    service.events = f"events.{uuid.uuid4().hex[:12]}"
    peer.channel.exchange_declare(service.events, "fanout")
    heard = peer.declare("", exclusive=True)
    peer.channel.queue_bind(heard, service.events)
    service.consumers["input"] = ConsumerThread(
        service.create_mq_connection(), queue, service.handle_api_input
    )
    service.run()
    try:
        eventually(service.check_health, 30)
        reply = peer.ask(queue, 30, **{"message_id": "mine", **REQUEST})
    finally:
        service.stop(1)
        peer.channel.exchange_delete(service.events)
        peer.channel.queue_delete(queue)
    assert reply["message_id"] == "mine"
    if isinstance(scenario.reply, str):
        assert reply["error"].startswith(scenario.reply)
    else:
        assert without_id(reply) == scenario.reply
    assert sorted(asked, key=str) == sorted(scenario.asked, key=str)
    events = [payload.decode(peer.take(heard, 30)[1]) for _ in scenario.events]
    assert ([without_id(each) for each in events], peer.count(heard)[0]) == (
        list(scenario.events),
        0,
    )


class BoundedAsync(MQConnector):
    """Awaits a reply for as long as its own client does."""

    async def handle(self, channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        request = Request.decode(body, properties)
        try:
            reply = await self.ask_async(request.data["of"], {})
        except RequestTimeout as error:
            reply = {"error": str(error)}
        assert request.reply_queue
        channel.basic_publish("", request.reply_queue, request.encode_reply(reply))


def test_a_task_knows_the_request_that_it_handles(
    broker: Broker, make: Make, peer: Peer, queue: str
) -> None:
    """Its time, its id and its trace, with others under way on the same event loop."""
    slow: Service = make(lambda request: time.sleep(0.5) or {})  # type: ignore[func-returns-value]
    login = {"username": USER, "password": PASSWORD}
    config = {"server": "127.0.0.1", "port": broker.port, "users": {"calling": login}}
    service = BoundedAsync(config, "calling")
    service.vhost = VHOST
    service.consumers["input"] = ConsumerThread(
        service.create_mq_connection(), queue, service.handle, workers=10
    )
    service.run()
    try:
        eventually(service.check_health, 30)
        replies = peer.declare("")
        for number in range(5):
            message = {"message_id": str(number), "routing_key": replies, "of": slow.queue}
            # The last one's time is over before its turn comes.
            expiration = "1300" if number == 4 else "60000"
            trace = f"00-{'1' * 32}-{number + 1:016x}-01"
            peer.publish(queue, message, expiration=expiration, headers={"traceparent": trace})
        found = {each["message_id"]: each for each in (peer.reply(replies, 60) for _ in range(5))}
    finally:
        service.stop(1)
        peer.channel.queue_delete(queue)
    assert "no reply" in found["4"]["error"]
    assert not any("error" in found[str(number)] for number in range(4))
    seen = {str(each.correlation_id): each for each in slow.seen}
    for number in range(4):
        headers = seen[str(number)].headers
        assert headers is not None
        assert headers["traceparent"] == f"00-{'1' * 32}-{number + 1:016x}-01"


def sockets(service: Service) -> int:
    return sum(each.is_open for each in service._connections.values())


def test_a_handler_asks_another_service_over_its_own_connection(make: Make, peer: Peer) -> None:
    other: Service = make(lambda request: {"sum": request["a"] + request["b"]})
    one: Service = make(
        lambda request: {"told": one.ask(other.queue, {"a": request["a"], "b": 2})["sum"]}
    )
    reply = peer.ask(one.queue, 30, a=40)
    assert reply["told"] == 42
    assert sockets(one) == 1
    assert one.consumers["input"].connection is one.create_mq_connection()


def test_any_thread_may_ask_without_any_consumer(make: Make) -> None:
    other: Service = make(lambda request: {"n": request["n"]}, workers=4)
    asking: Service = make()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: asking.ask(other.queue, {"n": n}), range(50)))
    assert [each["n"] for each in replies] == list(range(50))


def test_id_and_trace_of_the_request_in_hand_go_along(make: Make, peer: Peer) -> None:
    other: Service = make(lambda request: {})
    one: Service = make(lambda request: one.ask(other.queue, {}))
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    replies = peer.declare("")
    message = {"message_id": "mine", "routing_key": replies}
    peer.publish(one.queue, message, headers={"traceparent": trace})
    peer.publish(one.queue, message, correlation_id="his")
    for _ in range(2):
        peer.take(replies, 30)
    assert [each.correlation_id for each in other.seen] == ["mine", "his"]
    assert other.seen[0].headers is not None
    assert other.seen[0].headers["traceparent"] == trace
    assert len({each.message_id for each in other.seen}) == 2, "each has an id of its own"


def test_a_queue_that_isnt_there_is_said_at_once(make: Make, peer: Peer) -> None:
    raised: list[Exception] = []

    def answer(request: dict[Any, Any]) -> dict[Any, Any]:
        began = time.monotonic()
        with pytest.raises(Unroutable, match="no queue 'nobodys'") as caught:
            one.ask("nobodys", {}, timeout=600)
        raised.append(caught.value)
        return {"seconds": time.monotonic() - began}

    one: Service = make(answer)
    assert peer.ask(one.queue, 60)["seconds"] < 60
    assert raised


def test_the_wait_is_no_longer_than_that_of_ones_own_client(make: Make, peer: Peer) -> None:
    slow: Service = make(lambda request: time.sleep(3) or {})  # type: ignore[func-returns-value]

    def answer(request: dict[Any, Any]) -> dict[Any, Any]:
        with pytest.raises(RequestTimeout):
            one.ask(slow.queue, {}, timeout=600)
        return {"bounded": True}

    one: Service = make(answer)
    replies = peer.declare("")
    peer.publish(one.queue, {"message_id": "1", "routing_key": replies}, expiration="700")
    assert peer.take(replies, 60)
    assert int(str(slow.seen[0].expiration)) <= 700


def test_neons_second_in_the_queue_bounds_nothing(make: Make, peer: Peer) -> None:
    """All of Neon's clients let a request expire after 1000 ms, and wait for as long as they like."""
    slow: Service = make(lambda request: time.sleep(1.5) or {"late": True})  # type: ignore[func-returns-value]
    one: Service = make(lambda request: one.ask(slow.queue, {}))
    replies = peer.declare("")
    peer.publish(one.queue, {"message_id": "1", "routing_key": replies}, expiration="1000")
    assert b"error" not in peer.take(replies, 60)[1]


def test_a_circle_ends_when_the_time_is_over_and_nobody_hangs(make: Make, peer: Peer) -> None:
    one: Service = make(lambda request: one.ask(other.queue, {}) if request.get("round") else {})
    other: Service = make(lambda request: other.ask(one.queue, {"round": True}))
    replies = peer.declare("")
    message = {"message_id": "1", "round": True, "routing_key": replies}
    peer.publish(one.queue, message, expiration="900")
    # Told of it, whether by the one or by the other.
    assert peer.take(replies, 60)
    # Neither is asked once more by what had waited for it meanwhile, and both still answer.
    eventually(lambda: peer.ask(one.queue)["message_id"] is not None, 60)
    assert len(other.seen) < 3, [each.expiration for each in other.seen]


def test_a_service_that_asks_itself_is_told_why_nobody_answers(make: Make, peer: Peer) -> None:
    texts: list[str] = []

    def answer(request: dict[Any, Any]) -> dict[Any, Any]:
        if request.get("again"):
            return {}
        try:
            one.ask(one.queue, {"again": True}, timeout=0.5)
        except RequestTimeout as error:
            texts.append(str(error))
        return {}

    one: Service = make(answer)
    peer.ask(one.queue, 30)
    assert "this service consumes it itself" in texts[0]


def test_a_request_that_has_expired_isnt_handled(make: Make, peer: Peer) -> None:
    one: Service = make(lambda request: {})
    now = int(time.time())
    peer.declare_dead(one.queue)
    # The expired one isn't the first, as the first one by a route is read in another way.
    for number, (sent, expiration) in enumerate(((now - 60, "90000"), (now - 60, "30000"))):
        message = {"message_id": str(number)}
        peer.publish(one.queue, message, timestamp=sent, expiration=expiration)
    properties, body = peer.take(f"{one.queue}.dead", 30)
    assert payload.decode(body) == {"message_id": "1"}
    assert properties.headers is not None
    assert properties.headers["x-exception-type"] == "Expired"
    eventually(lambda: one.seen, 30)
    assert [each.expiration for each in one.seen] == ["90000"]


def test_what_is_published_is_with_the_broker_when_it_returns(make: Make, peer: Peer) -> None:
    events = f"events.{uuid.uuid4().hex[:12]}"
    publishing = make()
    type(publishing).publishes = (events,)
    try:
        publishing.publish(events, "", {"text": "nobody listens, and that is fine"})
        queue = peer.declare("", exclusive=True)
        peer.channel.queue_bind(queue, events)
        publishing.publish(events, "", {"text": "it rains"})
        properties, body = peer.take(queue, 30)
        assert payload.decode(body)["text"] == "it rains"
        assert properties.delivery_mode == 2
        publishing.publish("", queue, b"as it is")
        assert peer.take(queue, 30)[1] == b"as it is"
        with pytest.raises(Unroutable):
            publishing.publish("", "nobodys", {})
    finally:
        type(publishing).publishes = ()
        peer.channel.exchange_delete(events)


def test_an_exchange_that_isnt_named_isnt_made(make: Make) -> None:
    publishing = make()
    with pytest.raises(PublishError, match="name 'nobodys' in `publishes`"):
        publishing.publish("nobodys", "", {})


def test_another_vhost_is_asked_with_the_services_own_login(broker: Broker, make: Make) -> None:
    other = Service(broker, lambda request: {"here": True})
    asking: Service = make()
    other.vhost = SERVICE_VHOST
    other.consumers["input"] = ConsumerThread(
        other.create_mq_connection(), other.queue, other.handle
    )
    other.run()
    try:
        eventually(other.check_health, 30)
        assert asking.ask(other.queue, {}, vhost=SERVICE_VHOST)["here"] is True
        type(asking).calls = ((other.queue, SERVICE_VHOST),)
        assert asking.ask(other.queue, {})["here"] is True
    finally:
        type(asking).calls = ()
        other.stop(1)


def test_a_vhost_without_rights_is_an_error_that_says_what_to_do(make: Make) -> None:
    with pytest.raises(StartError, match=r"in `calls` of the class"):
        make().ask("somebodys", {}, vhost="/nowhere")


def test_neither_an_event_loop_nor_the_connections_own_thread_is_held_up(make: Make) -> None:
    other: Service = make(lambda request: {})
    asking: Service = make()
    raised: list[BaseException] = []

    def try_all() -> None:
        for call in (
            lambda: asking.ask(other.queue, {}),
            lambda: asking.publish("", other.queue, {}),
        ):
            with pytest.raises(WouldWait) as caught:
                call()
            raised.append(caught.value)

    async def on_loop() -> None:
        try_all()

    asyncio.run(on_loop())
    assert "await self.ask_async" in str(raised[0])
    assert asking.ask(other.queue, {})  # which opens the connection
    done = threading.Event()

    def on_its_thread() -> None:
        try_all()
        done.set()

    asking.create_mq_connection().call(on_its_thread)
    assert done.wait(30)
    assert "own thread" in str(raised[2])


def test_an_event_loop_asks_and_publishes_many_at_once(make: Make, peer: Peer) -> None:
    other: Service = make(lambda request: {"n": request["n"]}, workers=4)
    asking: Service = make()
    queue = peer.declare(f"input.{uuid.uuid4().hex[:12]}")

    async def all_of_them() -> list[dict[Any, Any]]:
        replies = await asyncio.gather(
            *(asking.ask_async(other.queue, {"n": n}) for n in range(200))
        )
        await asyncio.gather(*(asking.publish_async("", queue, b"%d" % n) for n in range(1500)))
        with pytest.raises(Unroutable):
            await asking.ask_async("nobodys", {})
        with pytest.raises(RequestTimeout):
            await asking.ask_async(queue, {}, timeout=0.2)
        with pytest.raises(PublishError, match="`publishes`"):
            await asking.publish_async("nobodys", "", {})
        return replies

    assert [each["n"] for each in asyncio.run(all_of_them())] == list(range(200))
    eventually(lambda: peer.count(queue)[0] >= 1500, 30)
    peer.channel.queue_delete(queue)


def test_after_the_stop_nobody_is_asked(make: Make) -> None:
    other: Service = make(lambda request: {})
    asking: Service = make()
    asking.ask(other.queue, {})
    silent: Service = make()
    for each in (asking, silent):
        each.stop(1)
        with pytest.raises(NotConnected, match="stopped"):
            each.ask(other.queue, {})
        with pytest.raises(NotConnected, match="stopped"):
            each.publish("", other.queue, {})
        assert sockets(each) == 0


def test_who_asks_outlives_a_lost_connection(broker: Broker, make: Make, peer: Peer) -> None:
    other: Service = make(lambda request: {"n": request["n"]})
    asking: Service = make()
    assert asking.ask(other.queue, {"n": 1})["n"] == 1
    connection = asking.create_mq_connection()
    connection.call(connection.drop)
    assert asking.ask(other.queue, {"n": 2}, timeout=60)["n"] == 2
