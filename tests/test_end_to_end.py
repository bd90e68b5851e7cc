"""From cookiecutter to an answered request, on real brokers, with both clients."""

from __future__ import annotations

import json
import re
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import brokers
import pika
import pytest
from baked import BakedProject, bake_into
from conformance.generations import installed_version
from local import free_port
from mq_connector import payload
from running import Service, running
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """A repository under a name of its own, whose broker lets Neon's clients in."""
    project = bake_into(tmp_path_factory.mktemp("echo"), {"service_name": "Weather Report"})
    project.run("python", "rabbitmq/provision.py", "--client-user")
    return project


@pytest.fixture(scope="module", params=brokers.EVERYWHERE)
def port(request: pytest.FixtureRequest, echo: BakedProject) -> Iterator[int]:
    """Port of a broker of each generation, with the repository's definitions."""
    with brokers.at(request.param, echo) as number:
        yield number


@pytest.fixture(scope="module")
def service(
    echo: BakedProject, port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with running(echo, port, tmp_path_factory.mktemp("home")) as started:
        yield started


def channel_of_service_user(service: Service) -> pika.adapters.blocking_connection.BlockingChannel:
    user = json.loads(service.project.read("mq_config.json"))["users"]["weather_report"]
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            "localhost",
            service.port,
            service.project.answers["vhost"],
            pika.PlainCredentials(user["username"], user["password"]),
        )
    ).channel()


def dead_letters(service: Service) -> int:
    """The number of dead letters."""
    channel = channel_of_service_user(service)
    try:
        count: int = channel.queue_declare(
            "weather_report_input.dead", passive=True
        ).method.message_count
        return count
    finally:
        channel.connection.close()


def test_its_own_client_gets_an_answer_with_the_request_under_echo(service: Service) -> None:
    reply = service.ask({"text": "hi"})
    assert reply["echo"] == {"text": "hi"}
    assert reply["message_id"]


def test_the_public_client_gets_every_answer(service: Service) -> None:
    """Its reply queue comes into being after its request, which most services lose (1 of 20)."""
    replies = service.ask_as_neon({"text": "hi", "message_id": "of the client"}, times=20)
    assert [reply.get("echo") for reply in replies] == 20 * [{"text": "hi"}]
    assert {reply["message_id"] for reply in replies} == {"of the client"}


def test_its_queue_is_durable_wherever_the_public_client_can_live_with_that(
    service: Service, request: pytest.FixtureRequest
) -> None:
    channel = channel_of_service_user(service)
    quorum = {"x-queue-type": "quorum"}
    try:
        channel.queue_declare("weather_report_input", durable=True, arguments=quorum)
        kind = "quorum"
    except pika.exceptions.ChannelClosedByBroker as error:
        assert error.reply_code == 406
        kind = "transient"
    channel.connection.close()
    # RabbitMQ 3 refuses a legacy re-declaration.
    on_3 = "installed" in request.node.name and installed_version().startswith("3.")
    assert kind == ("transient" if on_3 else "quorum")


def test_the_doctor_finds_nothing_wrong(service: Service) -> None:
    seen = service.command("doctor")
    assert seen.returncode == 0, seen.stdout
    assert "FAIL" not in seen.stdout


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff not base64", id="not base64"),
        pytest.param(b"WzEsIDJd", id="not a dict"),
        pytest.param(b"Il9faW1wb3J0X18oJ29zJykuc3lzdGVtKCdleGl0IDEnKSI=", id="hostile Python"),
        pytest.param(b"A" * 10_000_000, id="10 MB"),
        pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, id="nested 10 000 deep"),
    ],
)
def test_a_hostile_body_is_dead_lettered_and_answered(service: Service, body: bytes) -> None:
    before = dead_letters(service)
    channel = channel_of_service_user(service)
    replies = channel.queue_declare(
        f"weather_report.reply.{secrets.token_hex(8)}", exclusive=True
    ).method.queue
    channel.basic_publish(
        "", "weather_report_input", body, pika.BasicProperties(reply_to=replies, message_id="7")
    )
    answers = channel.consume(replies, auto_ack=True, inactivity_timeout=60)
    _, _, raw = next(answers)
    assert raw, service.log.read_text()
    reply = payload.decode(raw)
    assert (reply["success"], reply["code"], reply["message_id"]) == (False, 400, "7")
    channel.connection.close()
    # Dead-lettered behind the reply.
    eventually(lambda: dead_letters(service) == before + 1, what="one more dead letter")
    assert service.ask({"text": "still there"})["echo"] == {"text": "still there"}


def test_a_request_without_message_id_is_answered(service: Service) -> None:
    channel = channel_of_service_user(service)
    replies = channel.queue_declare(
        f"weather_report.reply.{secrets.token_hex(8)}", exclusive=True
    ).method.queue
    channel.basic_publish(
        "", "weather_report_input", json.dumps({"text": "hi", "routing_key": replies}).encode()
    )
    _, _, raw = next(channel.consume(replies, auto_ack=True, inactivity_timeout=60))
    assert raw, service.log.read_text()
    assert json.loads(raw)["echo"] == {"text": "hi"}, "in the form in which the request came"
    assert json.loads(raw)["message_id"]
    channel.connection.close()


def test_an_edited_handler_answers_differently(project: BakedProject, tmp_path: Path) -> None:
    handler = project.package / "service.py"
    with brokers.installed(project) as port:
        with running(project, port, tmp_path / "before") as service:
            assert service.ask({"text": "hi"})["echo"] == {"text": "hi"}
        source = handler.read_text(encoding="utf-8")
        edited = source.replace(
            'return {"echo": request}', 'return {"shout": request["text"].upper()}'
        )
        assert edited != source
        handler.write_text(edited, encoding="utf-8")
        with running(project, port, tmp_path / "after") as service:
            assert service.ask({"text": "hi"})["shout"] == "HI"
            assert service.stop(signal.SIGTERM) == 0
            assert service.command("health").returncode == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        pytest.param(None, ["no configuration", "provision.py"], id="missing"),
        pytest.param("{", ["mq_config.json", "JSON"], id="not JSON"),
        pytest.param("[]", ["mq_config.json", "JSON object"], id="not an object"),
        pytest.param('{"users": {}}', ["mq_config.json", "users.neon_echo"], id="without its user"),
        pytest.param(
            '{"users": {"neon_echo": {"username": "neon_echo"}}}',
            ["mq_config.json", "users.neon_echo.password"],
            id="without its password",
        ),
    ],
)
@pytest.mark.parametrize("command", ["run", "request"])
def test_a_bad_configuration_gets_one_line_that_names_file_and_key(
    project: BakedProject, tmp_path: Path, config: str | None, words: list[str], command: str
) -> None:
    path = project / "mq_config.json"
    path.unlink()
    (project / ".env").unlink()
    if config is not None:
        path.write_text(config)
    arguments = [command] if command == "run" else [command, "{}"]
    done = project.run(
        "python",
        "-m",
        "neon_echo",
        *arguments,
        env={"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines


def test_a_broker_that_is_down_is_tried_again_until_it_is_there(
    project: BakedProject, tmp_path: Path
) -> None:
    port = free_port()
    service = Service(project, port, tmp_path / "home")
    service.launch()
    try:
        deadline = time.monotonic() + 30
        while len(pauses := re.findall(r"trying again in (\S+) s", service.log.read_text())) < 3:
            assert time.monotonic() < deadline, service.log.read_text()
            time.sleep(0.05)
        assert service.command("health").returncode == 1
        assert float(pauses[2]) > 2 * float(pauses[0]), pauses
        with brokers.installed_node(project, port):
            service.wait_until_healthy()
            assert service.ask({"text": "hi"})["echo"] == {"text": "hi"}
            assert service.stop() == 0
    finally:
        service.kill()
