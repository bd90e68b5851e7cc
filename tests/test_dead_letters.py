"""Dead letters under the policies of the generated definitions, on brokers of each generation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import brokers
import pika
import pytest
from baked import BakedProject, bake_into
from mq_connector import ConsumerThread, MQConnector
from mq_connector.commands import broker, dead, doctor
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

SERVICE, VHOST, INPUT = "neon_echo", "/neon_echo", "neon_echo_input"
#: RabbitMQ 4 drops a message at its twentieth delivery unless a policy says otherwise.
LOOKS = 25


@pytest.fixture(params=brokers.EVERYWHERE)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MQConnector]:
    """A service of a generated repository, with its broker."""
    repository: BakedProject = bake_into(tmp_path_factory.mktemp("dead"))
    with brokers.at(request.param, repository) as port:
        config = {**json.loads(repository.read("mq_config.json")), "port": port}
        config["server"] = "127.0.0.1"
        service = MQConnector(config, service_name=SERVICE)
        service.vhost = VHOST
        connection = service.create_mq_connection()
        service.consumers = {INPUT: ConsumerThread(connection, INPUT, lambda *_: None)}
        yield service


def test_dead_letters_outlive_any_number_of_looks(
    service: MQConnector, capsys: pytest.CaptureFixture[str]
) -> None:
    with broker.publisher(service) as publisher:
        publisher.publish("", f"{INPUT}.dead", b"x").result(60)
    for look in range(LOOKS):
        assert dead.show(service, requeue=False) == 0
        said = capsys.readouterr().out
        assert said.endswith(f"1 dead letter of {INPUT!r}\n"), f"after {look} looks: {said}"


def test_a_letter_whose_death_made_its_headers_too_large_is_put_back_as_it_was(
    service: MQConnector, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every generation adds an account of its own to headers that filled a frame already."""
    connection = pika.BlockingConnection(list(service.address().parameters))
    channel = connection.channel()
    channel.queue_declare(INPUT, durable=True, arguments={"x-queue-type": "quorum"})
    properties = pika.BasicProperties(headers={"large": "x" * 130_850}, message_id="1")
    channel.basic_publish("", INPUT, b"{}", properties)

    def take() -> Any:
        return eventually(lambda: (got := channel.basic_get(INPUT))[0] and got)

    method, *_ = take()
    channel.basic_reject(method.delivery_tag, requeue=False)

    def listed() -> bool:
        assert dead.show(service, requeue=False) == 0
        return "1 dead letter of" in capsys.readouterr().out

    eventually(listed)
    assert dead.show(service, requeue=True) == 0
    assert f"1 dead letter of {INPUT!r} put back" in capsys.readouterr().out
    _, again, body = take()
    again.headers.pop("x-delivery-count", None)  # RabbitMQ 3 counts from the first on
    assert (again.headers, again.message_id, body) == (properties.headers, "1", b"{}")
    connection.close()
    doctor.examine(service)
    assert f"ok    queue: {INPUT!r}, quorum, " in capsys.readouterr().out
