"""A service with two queues and an exchange to listen to, with no more rights than provision.py gives it."""

from __future__ import annotations

import ast
import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brokers
import pika
import pytest
from baked import BakedProject, bake_into
from pika.exceptions import ChannelClosedByBroker
from provisioning import provision
from running import Service
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

INPUT, ADMIN, EVENTS = "neon_echo_input", "neon_echo_admin", "neon_events"
#: As services of Neon's are written that have more than one consumer.
COMPAT = f"""
from .mq_connector.compat.connector import MQConnector
from .mq_connector.compat.utils.network_utils import b64_to_dict


class NeonEchoService(MQConnector):
    def __init__(self, config=None):
        super().__init__(config, "neon_echo")
        self.vhost = "/neon_echo"
        self.events = []
        for queue in ("{INPUT}", "{ADMIN}"):
            self.register_consumer(queue, self.vhost, queue, self.handle)
        self.register_subscriber("events", self.vhost, self.listen, exchange="{EVENTS}")

    def handle(self, channel, method, properties, body):
        request = b64_to_dict(body)
        if request["text"] == "bad":
            raise ValueError("can't be handled")
        reply = {{"queue": method.routing_key, "events": self.events, "message_id": request["message_id"]}}
        self.send_message(reply, self.vhost, queue=request["routing_key"])

    def listen(self, channel, method, properties, body):
        event = b64_to_dict(body)
        if event["text"] == "bad":
            raise ValueError("can't be handled")
        self.events.append(event["text"])
"""

#: The same in the core's own words.
CORE = f"""
from .mq_connector import ConsumerThread, MQConnector, Request

INPUT = "{INPUT}"


class NeonEchoService(MQConnector):
    def __init__(self, config=None):
        super().__init__(config, "neon_echo")
        self.vhost = "/neon_echo"
        self.events = []
        connection = self.create_mq_connection()
        self.consumers = {{
            queue: ConsumerThread(connection=connection, queue=queue, callback_func=self.handle)
            for queue in (INPUT, "{ADMIN}")
        }}
        self.consumers["events"] = ConsumerThread(
            connection=connection, exchange="{EVENTS}", callback_func=self.listen, workers=1
        )

    def handle(self, channel, method, properties, body):
        request = Request.decode(body, properties)
        if request.data["text"] == "bad":
            raise ValueError("can't be handled")
        reply = {{"queue": method.routing_key, "events": self.events}}
        channel.basic_publish(
            "", request.reply_queue, request.encode_reply(reply), request.reply_properties
        )

    def listen(self, channel, method, properties, body):
        event = Request.decode(body, properties).data
        if event["text"] == "bad":
            raise ValueError("can't be handled")
        self.events.append(event["text"])
"""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((CORE, "installed"), id="core"),
        pytest.param((COMPAT, "installed"), id="compat"),
        *(
            pytest.param((CORE, each), id=each, marks=brokers.marks(each))
            for each in brokers.IMAGES
        ),
    ],
)
def written(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The service's source, and where its broker comes from."""
    text, where = request.param
    return text, where


@pytest.fixture(scope="module")
def project(written: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """Nothing is named but in the service itself."""
    made = bake_into(tmp_path_factory.mktemp("more"))
    (made.package / "service.py").write_text(written[0])
    assert provision(made, "--check").returncode == 1
    assert provision(made, "--client-user").returncode == 0
    assert provision(made, "--check").returncode == 0
    return made


@pytest.fixture(scope="module")
def port(written: tuple[str, str], project: BakedProject) -> Iterator[int]:
    with brokers.at(written[1], project) as number:
        yield number


@pytest.fixture
def service(project: BakedProject, port: int, tmp_path: Path) -> Iterator[Service]:
    """Not started yet; what it leaves on the broker is removed."""
    one = Service(project, port, tmp_path / "home")
    yield one
    one.kill()
    with Account(project, port, "neon_echo") as owner:
        for queue in (INPUT, ADMIN):
            owner.channel.queue_delete(queue)
            owner.channel.queue_purge(f"{queue}.dead")


class Account:
    """Somebody with the credentials under one key of the configuration."""

    def __init__(self, project: BakedProject, port: int, key: str = "mq_handler") -> None:
        user = json.loads(project.read("mq_config.json"))["users"][key]
        credentials = pika.PlainCredentials(user["username"], user["password"])
        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", port, "/neon_echo", credentials)
        )
        self.channel = self._connection.channel()

    def __enter__(self) -> Account:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, exchange: str, queue: str, **data: Any) -> None:
        body = base64.b64encode(json.dumps(str({"message_id": uuid.uuid4().hex, **data})).encode())
        self.channel.basic_publish(exchange, queue, body)

    def ask(self, queue: str) -> dict[str, Any]:
        replies = uuid.uuid4().hex
        self.channel.queue_declare(queue)  # as Neon's clients do before each request
        self.channel.queue_declare(replies)
        self.send("", queue, text="hi", routing_key=replies)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            _, _, body = self.channel.basic_get(replies, auto_ack=True)
            if body is not None:
                self.channel.queue_delete(replies)
                answer: dict[str, Any] = ast.literal_eval(json.loads(base64.b64decode(body)))
                return answer
            time.sleep(0.02)
        raise AssertionError(f"no answer from {queue}")


def test_before_the_first_start_the_doctor_finds_the_rights_in_order(service: Service) -> None:
    seen = service.command("doctor").stdout
    assert seen.count("doesn't exist yet") == 2
    assert "FAIL" not in seen


def test_both_queues_and_the_exchange_are_heard(
    service: Service, project: BakedProject, port: int
) -> None:
    service.launch()
    service.wait_until_healthy()
    with Account(project, port) as client:
        for queue in (INPUT, ADMIN):
            assert client.ask(queue)["queue"] == queue
        client.channel.exchange_declare(EVENTS, "fanout")  # as their send_message does
        client.send(EVENTS, "", text="it rains")
        eventually(
            lambda: client.ask(INPUT)["events"] == ["it rains"],
            what=service.log.read_text,
            every=0.1,
        )
    seen = service.command("doctor")
    assert seen.returncode == 0, seen.stdout
    assert service.stop() == 0, service.log.read_text()


def test_whatever_fails_is_dead_lettered_and_put_back_where_it_died(
    service: Service, project: BakedProject, port: int
) -> None:
    service.launch()
    service.wait_until_healthy()
    with Account(project, port) as client:
        for exchange, queue in (("", INPUT), ("", ADMIN), (EVENTS, "")):
            client.send(exchange, queue, text="bad")

    def dead(*words: str) -> list[str]:
        lines = service.command("dead", *words).stdout.splitlines()
        return [line for line in lines if re.match(r"\d+ dead letters? of", line)]

    everything = [f"2 dead letters of '{INPUT}'", f"1 dead letter of '{ADMIN}'"]
    eventually(lambda: dead() == everything, what=lambda: str(dead()))
    letters = map(json.loads, service.command("dead", "--json").stdout.splitlines())
    for letter in list(letters):
        # One at a time, as the first that dies again ends it.
        back = dead("--requeue", "--id", letter["id"])
        assert sum(line.startswith("1 ") and line.endswith("put back") for line in back) == 1
        # It is refused again by the consumer that refused it the first time.
        eventually(lambda: dead() == everything, what=lambda: str(dead()))
    assert service.log.read_text().count("can't be handled") >= 6
    service.stop()
    # The subscriber's queue goes in its own time, or with this.
    with Account(project, port, "neon_echo") as owner:
        names = rf"subscriber_{EVENTS}_[0-9a-f]{{6}}"
        [queue] = set(re.findall(names, service.log.read_text()))
        owner.channel.queue_delete(queue)
    kept = service.command("dead", "--requeue").stdout
    assert f"stays a dead letter: there is no queue '{queue}' any more" in kept
    assert dead() == [f"1 dead letter of '{INPUT}'", f"0 dead letters of '{ADMIN}'"]


@pytest.mark.parametrize(
    "action",
    [
        lambda channel: channel.exchange_declare("neon_other", "fanout"),
        lambda channel: channel.queue_declare("subscriber_neon_other_0a1b2c"),
        lambda channel: channel.queue_declare(f"subscriber_{EVENTS}_everything"),
        lambda channel: channel.queue_declare(f"{INPUT}2"),
        lambda channel: channel.queue_bind(INPUT, "amq.fanout"),
        lambda channel: channel.queue_delete(f"{ADMIN}.dead"),
    ],
)
def test_other_exchanges_and_queues_stay_out_of_reach(
    project: BakedProject, port: int, action: Callable[[Any], Any]
) -> None:
    with Account(project, port, "neon_echo") as owner:
        owner.channel.queue_declare(INPUT, durable=True, arguments={"x-queue-type": "quorum"})
        with pytest.raises(ChannelClosedByBroker) as refused:
            action(owner.channel)
        assert refused.value.reply_code == 403
    with Account(project, port, "neon_echo") as owner:
        owner.channel.queue_delete(INPUT)
