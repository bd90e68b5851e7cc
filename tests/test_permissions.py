"""What the users of the definitions may do, and where dead letters go, on brokers of each kind."""

from __future__ import annotations

import functools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import brokers
import pika
import pytest
from baked import BakedProject, bake_into
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

INPUT = "neon_echo_input"
DEAD = f"{INPUT}.dead"
QUORUM: dict[str, Any] = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
REFUSED = 403
UUID = "01234567-89ab-4cde-8f01-23456789abcd"
#: Reply queues as Neon's clients name them: most of them, the shared ones, one for each request, and
#: those of chat clients.
REPLIES = (
    "0123456789abcdef" * 2,
    "neon_api_output",
    f"{INPUT}.response.0123456789abcdef",
    UUID,
    f"chat_gpt_{UUID}",
    f"neon-chat_{UUID}",
    "neon_chat_api_error",
)
#: Names that look like those, and that a pattern without ends would match.
NO_REPLIES = (
    "0123456789abcdef" * 2 + "0",
    f"{UUID}0",
    f"{UUID}_x",
    f"x.{UUID}",
    f"{INPUT}.dead_{UUID}",
    f"_{UUID.upper()}",
    "neon_chat_api_errors",
    "other_neon_chat_api_error",
    "neon.api_output",
    "neon_api_output2",
)

Login = Callable[..., BlockingChannel]
Action = Callable[[BlockingChannel], Any]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    project = bake_into(tmp_path_factory.mktemp("permissions"))
    project.run("python", "rabbitmq/provision.py", "--client-user")
    return project


@pytest.fixture(scope="module", params=brokers.EVERYWHERE)
def port(request: pytest.FixtureRequest, repository: BakedProject) -> Iterator[int]:
    with brokers.at(request.param, repository) as number:
        yield number


@pytest.fixture
def login(port: int, repository: BakedProject) -> Iterator[Login]:
    """Log in as the user under that key of mq_config.json; returns a channel."""
    users = json.loads(repository.read("mq_config.json"))["users"]
    opened = []

    def connect(key: str, vhost: str = "/neon_echo", **other: str) -> BlockingChannel:
        user = {**users[key], **other}
        credentials = pika.PlainCredentials(user["username"], user["password"])
        connection = pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", port, vhost, credentials)
        )
        opened.append(connection)
        return connection.channel()

    yield connect
    for connection in opened:
        if connection.is_open:
            connection.close()
    service = connect("neon_echo")
    service.queue_delete(INPUT)
    service.queue_purge(DEAD)
    service.connection.close()


def get(channel: BlockingChannel, queue: str, within: float = 60.0) -> Any:
    """The next message, waited for; `within` in seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        method, properties, body = channel.basic_get(queue)
        if method is not None:
            return method, properties, body
        time.sleep(0.05)
    raise AssertionError(f"nothing in {queue} within {within} s")


def code(action: Action, channel: BlockingChannel) -> int:
    """With which code the broker closes the channel for it; 0 if it doesn't."""
    try:
        action(channel)
        channel.queue_declare(INPUT, passive=True)  # publishing isn't answered; this is
    except ChannelClosedByBroker as closed:
        return int(closed.reply_code)
    return 0


@pytest.mark.parametrize("options", [QUORUM, {}], ids=["quorum", "legacy"])
def test_the_service_has_its_queue_to_itself(login: Login, options: dict[str, Any]) -> None:
    service = login("neon_echo")
    service.queue_declare(INPUT, **options)
    service.basic_publish("", INPUT, b"request")
    method, _, body = get(service, INPUT)
    service.basic_ack(method.delivery_tag)
    service.basic_cancel(service.basic_consume(INPUT, lambda *_: None))
    service.queue_purge(INPUT)
    service.queue_delete(INPUT)
    assert body == b"request"


def test_the_service_can_probe_what_the_broker_tolerates(login: Login) -> None:
    service = login("neon_echo")
    probe = f"{INPUT}.probe.{uuid.uuid4().hex}"
    service.queue_declare(probe, **QUORUM)
    other = login("neon_echo")
    assert code(lambda channel: channel.queue_declare(probe), other) in (0, 404, 406)
    service.queue_delete(probe)


def test_the_service_has_reply_queues_of_its_own(login: Login) -> None:
    service = login("neon_echo")
    mine = f"neon_echo.reply.{uuid.uuid4().hex}"
    service.queue_declare(mine, exclusive=True)
    service.basic_publish("", mine, b"reply")
    assert get(service, mine)[2] == b"reply"


def test_the_service_answers_at_a_queue_that_it_may_not_declare(login: Login) -> None:
    client, service = login("mq_handler"), login("neon_echo")
    for queue in REPLIES:
        client.queue_declare(queue)
        service.basic_publish("", queue, b"reply")
        assert get(client, queue)[2] == b"reply"
        declare = functools.partial(BlockingChannel.queue_declare, queue=queue)
        assert code(declare, login("neon_echo")) == REFUSED
        client.queue_delete(queue)


@pytest.mark.parametrize(
    "action",
    [
        lambda channel: channel.queue_declare("0123456789abcdef" * 2),
        lambda channel: channel.queue_declare(f"{INPUT}2"),
        lambda channel: channel.queue_declare(f"x{INPUT}"),
        lambda channel: channel.queue_declare("neon_echoxreply.ab", exclusive=True),
        lambda channel: channel.queue_declare(""),
        lambda channel: channel.queue_delete(DEAD),
        lambda channel: channel.queue_declare(f"{DEAD}.probe.ab"),
        lambda channel: channel.exchange_declare("neon_echo", "fanout"),
        lambda channel: channel.exchange_delete(DEAD),
        lambda channel: channel.queue_bind(INPUT, "amq.fanout"),
        lambda channel: channel.basic_publish("amq.fanout", "", b""),
        lambda channel: channel.basic_publish(DEAD, "", b""),
    ],
)
def test_the_service_may_nothing_else(login: Login, action: Action) -> None:
    login("neon_echo").queue_declare(INPUT)
    assert code(action, login("neon_echo")) == REFUSED


def test_the_service_may_not_read_what_others_are_told(login: Login) -> None:
    client = login("mq_handler")
    queue = uuid.uuid4().hex
    client.queue_declare(queue)
    for action in (
        lambda channel: channel.basic_get(queue),
        lambda channel: channel.basic_consume(queue, lambda *_: None),
        lambda channel: channel.queue_purge(queue),
        lambda channel: channel.queue_delete(queue),
    ):
        assert code(action, login("neon_echo")) == REFUSED
    client.queue_delete(queue)


@pytest.mark.parametrize(
    "action",
    [
        lambda channel: channel.basic_get(INPUT),
        lambda channel: channel.basic_consume(INPUT, lambda *_: None),
        lambda channel: channel.queue_purge(INPUT),
        lambda channel: channel.basic_get(DEAD),
        lambda channel: channel.basic_consume(DEAD, lambda *_: None),
        lambda channel: channel.queue_purge(DEAD),
        lambda channel: channel.queue_delete(DEAD),
        lambda channel: channel.queue_declare(DEAD),
        lambda channel: channel.queue_bind(DEAD, "amq.fanout"),
        lambda channel: channel.queue_unbind(DEAD, DEAD),
        lambda channel: channel.basic_publish(DEAD, "", b"forged"),
        lambda channel: channel.exchange_delete(DEAD),
        lambda channel: channel.exchange_declare(DEAD, "fanout", durable=True),
        lambda channel: channel.queue_declare(f"{INPUT}.probe.ab"),
        lambda channel: channel.queue_declare("neon_echo.reply.ab", exclusive=True),
        lambda channel: channel.queue_declare("anything"),
        lambda channel: channel.exchange_declare("anything"),
        lambda channel: channel.basic_publish("amq.topic", "x", b""),
    ],
)
def test_a_client_may_ask_and_be_answered_and_nothing_else(login: Login, action: Action) -> None:
    login("neon_echo").queue_declare(INPUT)
    client = login("mq_handler")
    client.queue_declare(INPUT)  # as the incumbents' connector does before each request
    client.basic_publish("", INPUT, b"request")
    assert code(action, login("mq_handler")) == REFUSED


@pytest.mark.parametrize("queue", NO_REPLIES)
def test_a_client_waits_for_replies_at_queues_of_known_names_only(login: Login, queue: str) -> None:
    login("neon_echo").queue_declare(INPUT)
    declare = functools.partial(BlockingChannel.queue_declare, queue=queue)
    assert code(declare, login("mq_handler")) == REFUSED


def test_what_a_client_forges_through_the_default_exchange_is_only_a_message(login: Login) -> None:
    """No right can forbid that: it is how requests travel, and it reaches every queue by its name."""
    login("mq_handler").basic_publish("", DEAD, b"forged")
    service = login("neon_echo")
    method, properties, body = get(service, DEAD)
    assert (body, (properties.headers or {}).get("x-death")) == (b"forged", None)
    service.basic_ack(method.delivery_tag)


@pytest.mark.parametrize("key", ["neon_echo", "mq_handler"])
@pytest.mark.parametrize("vhost", ["/", "neon_echo", "/other"])
def test_there_is_no_other_virtual_host(login: Login, key: str, vhost: str) -> None:
    with pytest.raises(AMQPConnectionError):
        login(key, vhost)


def test_nobody_gets_in_with_another_password_or_as_guest(login: Login) -> None:
    for other in ({"password": "x"}, {"password": ""}, {"username": "guest", "password": "guest"}):
        with pytest.raises(AMQPConnectionError):
            login("neon_echo", **other)


@pytest.mark.parametrize("options", [QUORUM, {}], ids=["quorum", "legacy"])
@pytest.mark.parametrize("reason", ["rejected", "expired"])
def test_what_the_service_cant_use_ends_among_the_dead_letters(
    login: Login, options: dict[str, Any], reason: str
) -> None:
    service = login("neon_echo")
    service.queue_declare(INPUT, **options)
    expiration = "1" if reason == "expired" else None
    service.basic_publish("", INPUT, reason.encode(), pika.BasicProperties(expiration=expiration))
    if reason == "rejected":
        service.basic_reject(get(service, INPUT)[0].delivery_tag, requeue=False)
    _, properties, body = get(service, DEAD)
    assert body == reason.encode()
    assert properties.headers["x-first-death-reason"] == reason
    assert properties.headers["x-first-death-queue"] == INPUT
    service.basic_publish("", INPUT, body)  # and may be sent again by hand
    assert get(service, INPUT)[2] == body


def test_what_comes_back_again_and_again_ends_among_the_dead_letters(login: Login) -> None:
    service = login("neon_echo")
    service.queue_declare(INPUT, **QUORUM)
    service.basic_publish("", INPUT, b"poison")
    for _ in range(101):
        service.basic_reject(get(service, INPUT)[0].delivery_tag, requeue=True)
    _, properties, body = get(service, DEAD)
    assert (body, properties.headers["x-first-death-reason"]) == (b"poison", "delivery_limit")
