"""Dead letters under the policies of the generated definitions, on brokers of each generation."""

from __future__ import annotations

import json
from collections.abc import Iterator

import brokers
import pytest
from baked import BakedProject, bake_into
from mq_connector import Connection, ConsumerThread, MQConnector, Publisher
from mq_connector.commands import dead

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
    connection = service.create_mq_connection()
    with Publisher(Connection(connection.parameters)) as publisher:
        publisher.publish("", f"{INPUT}.dead", b"x").result(20)
    for look in range(LOOKS):
        assert dead.show(service, requeue=False) == 0
        said = capsys.readouterr().out
        assert said.endswith(f"1 dead letters of {INPUT!r}\n"), f"after {look} looks: {said}"
