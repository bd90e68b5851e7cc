"""docs/recipes.md of the generated repository: each piece of Python is put into a service and does what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import brokers
import pika
import pytest
from baked import BakedProject
from mq_connector import payload
from pika.adapters.blocking_connection import BlockingChannel
from recipes import WITH_RIGHTS, merged, recipes, replaced
from running import Service, free_port, is_running
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

PATIENCE = 60.0
QUEUE = "neon_echo_input"


#: A user who may do everything: all the others in these recipes.
OTHERS = "others"


@pytest.fixture(scope="module")
def provisioned(
    default_project: BakedProject, tmp_path_factory: pytest.TempPathFactory
) -> BakedProject:
    """A repository whose definitions are those of all recipes, and whose service is as it was."""
    path = tmp_path_factory.mktemp("provisioned") / default_project.path.name
    shutil.copytree(default_project.path, path, symlinks=True)
    project = BakedProject(path, default_project.answers)
    module = (project.package / "service.py").read_text(encoding="utf-8")
    pieces = recipes(project.read("docs/recipes.md"))
    more = [project.package / f"more{number}.py" for number in range(len(WITH_RIGHTS))]
    for title, file in zip(WITH_RIGHTS, more, strict=True):
        file.write_text(merged(module, pieces[title]), encoding="utf-8")
    project.run("python", "rabbitmq/provision.py")
    for file in more:
        file.unlink()
    return project


@pytest.fixture(scope="module")
def port(provisioned: BakedProject) -> Iterator[int]:
    with brokers.installed_node(provisioned) as broker:
        broker.ctl("add_user", OTHERS, OTHERS)
        broker.ctl("set_permissions", "-p", "/neon_echo", OTHERS, ".*", ".*", ".*")
        yield broker.port


@pytest.fixture
def project(provisioned: BakedProject, tmp_path: Path) -> BakedProject:
    path = tmp_path / provisioned.path.name
    shutil.copytree(provisioned.path, path, symlinks=True)
    return BakedProject(path, provisioned.answers)


@contextmanager
def channel_of_others(service: Service) -> Iterator[BlockingChannel]:
    parameters = service.parameters()
    parameters.credentials = pika.PlainCredentials(OTHERS, OTHERS)
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection.channel()
    finally:
        connection.close()


class Kitchen:
    """Runs a service with a recipe in it.

    :param port: where its broker listens on this machine
    """

    def __init__(self, project: BakedProject, port: int, home: Path) -> None:
        self.project, self.port, self.home = project, port, home
        self.database = home / "database.sqlite"

    def cook(self, title: str, change: Callable[[str], str] = str, **settings: str) -> Service:
        """Start it, and don't wait.

        :param change: gets the piece and returns what is put in instead
        """
        piece = change(recipes(self.project.read("docs/recipes.md"))[title])
        module = self.project.package / "service.py"
        module.write_text(merged(module.read_text(encoding="utf-8"), piece), encoding="utf-8")
        # Of the installed broker's kinds the one that counts deliveries.
        settings = {"MQ_QUEUE_TYPE": "quorum", **settings}
        service = Service(self.project, self.port, self.home, **settings)
        service.launch()
        return service

    def with_database(self, piece: str) -> str:
        return replaced(piece, DATABASE=repr(str(self.database)))


@pytest.fixture
def kitchen(project: BakedProject, port: int, tmp_path: Path) -> Iterator[Kitchen]:
    made = Kitchen(project, port, tmp_path / "home")
    started: list[Service] = []
    cook = made.cook

    def remembered(*words: Any, **settings: Any) -> Service:
        started.append(cook(*words, **settings))
        return started[-1]

    made.cook = remembered  # type: ignore[method-assign]
    yield made
    for each in started:
        each.kill()


def test_a_request_is_refused(kitchen: Kitchen) -> None:
    service = kitchen.cook("Refuse a request")
    service.wait_until_healthy()
    with service.client() as client:
        assert client.request(QUEUE, {"text": "hi"})["shout"] == "HI"
        refused = client.request(QUEUE, {})
    assert refused.pop("message_id")
    assert refused == {"success": False, "error": "text is missing", "code": 400}
    assert "0 dead letters" in service.command("dead").stdout


def test_a_typed_request_is_checked(kitchen: Kitchen) -> None:
    service = kitchen.cook("Say what a request looks like")
    service.wait_until_healthy()
    with service.client() as client:
        assert client.request(QUEUE, {"city": "Bergen"})["days"] == 1
        refused = client.request(QUEUE, {"city": "Bergen", "days": "two"})
    assert refused["code"] == 400
    assert "days" in refused["error"]
    described = json.loads(service.command("describe").stdout)
    assert described["components"]["schemas"]["Question"]["required"] == ["city"]


def test_many_wait_at_a_time_without_a_thread_each(kitchen: Kitchen) -> None:
    service = kitchen.cook(
        "Wait without a thread", lambda piece: piece.replace("0.1", "2"), MQ_WORKERS="100"
    )
    service.wait_until_healthy()
    with service.client() as client, ThreadPoolExecutor(60) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: client.request(QUEUE, {}, PATIENCE), range(60)))
    assert all(answer["waited"] for answer in answers)
    assert time.monotonic() - began < 60  # one after the other it would be 120


def test_an_answer_comes_in_parts(kitchen: Kitchen) -> None:
    service = kitchen.cook("Answer in parts")
    service.wait_until_healthy()
    parts: list[dict[Any, Any]] = []
    with service.channel() as channel:
        name = f"neon_echo.reply.{os.urandom(8).hex()}"
        channel.queue_declare(name, exclusive=True)
        request = {"text": "one two three", "routing_key": name, "message_id": "1"}
        channel.basic_publish("", QUEUE, payload.encode(request))
        for _method, _properties, body in channel.consume(name, inactivity_timeout=PATIENCE):
            assert body, service.log.read_text()
            parts.append(payload.decode(body))
            if parts[-1]["is_final"]:
                break
    assert [part["word"] for part in parts] == ["one", "two", "three"]
    assert [part["part"] for part in parts] == [0, 1, 2]


def test_a_service_has_a_start_an_end_and_a_beat(kitchen: Kitchen, capfd: Any) -> None:
    service = kitchen.cook("Do something at the start, at the end, and now and then")
    service.wait_until_healthy()
    with service.client() as client:
        eventually(lambda: client.request(QUEUE, {})["beats"] >= 2, PATIENCE)
    assert service.stop() == 0
    assert " beats" in capfd.readouterr().out


def test_another_queue_is_consumed(kitchen: Kitchen) -> None:
    service = kitchen.cook("Consume another queue")
    service.wait_until_healthy()
    with service.client() as client:
        assert client.request("neon_echo_second", {"text": "hi"})["second"] == {"text": "hi"}
        assert client.request(QUEUE, {"text": "hi"})["echo"] == {"text": "hi"}


def test_events_are_heard(kitchen: Kitchen) -> None:
    service = kitchen.cook("Hear what others publish")
    service.wait_until_healthy()
    with channel_of_others(service) as channel:
        channel.basic_publish("neon_events", "", payload.encode({"text": "hear"}))
    with service.client() as client:
        eventually(lambda: client.request(QUEUE, {})["heard"] == ["hear"], PATIENCE)


def test_some_of_it_is_heard_by_topic(kitchen: Kitchen) -> None:
    service = kitchen.cook("Hear some of it, by topic")
    service.wait_until_healthy()
    with channel_of_others(service) as channel:
        for key in ("weather.rain", "weather.rain.heavy", "sea.north.storm", "weather.sun"):
            channel.basic_publish("weather", key, b"{}")
    with service.client() as client:
        expected = ["weather.rain", "sea.north.storm", "weather.sun"]
        eventually(lambda: client.request(QUEUE, {})["heard"] == expected, PATIENCE)


def test_an_event_is_published(kitchen: Kitchen) -> None:
    service = kitchen.cook("Publish an event")
    service.wait_until_healthy()
    with channel_of_others(service) as channel, service.client() as client:
        channel.exchange_declare("neon_news", "fanout")
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "neon_news")
        assert client.request(QUEUE, {"text": "news"})["published"]
        _method, _properties, body = channel.basic_get(queue, auto_ack=True)
        assert body and payload.decode(body)["text"] == "news"


def test_another_service_is_asked(kitchen: Kitchen) -> None:
    service = kitchen.cook("Ask another service")
    service.wait_until_healthy()
    with channel_of_others(service) as channel, service.client() as client:
        assert "Unroutable" in client.request(QUEUE, {"city": "Bergen"})["error"]
        channel.queue_declare("weather_input", exclusive=True)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.request, QUEUE, {"city": "Bergen"}, PATIENCE)
            asking = channel.consume("weather_input", inactivity_timeout=PATIENCE)
            _method, properties, body = next(iter(asking))
            assert body, service.log.read_text()
            request = payload.decode(body)
            reply = {"weather": f"rain in {request['city']}", "message_id": request["message_id"]}
            channel.basic_publish("", request["routing_key"], payload.encode(reply), properties)
            assert asked.result(PATIENCE)["weather"] == "rain in Bergen"


def test_each_worker_has_a_database_connection(kitchen: Kitchen) -> None:
    service = kitchen.cook("Keep a database connection", kitchen.with_database, MQ_WORKERS="4")
    service.wait_until_healthy()
    with service.client() as client, ThreadPoolExecutor(4) as pool:
        asked = [{"text": str(number)} for number in range(20)]
        answers = list(pool.map(lambda each: client.request(QUEUE, each, PATIENCE), asked))
    assert max(answer["notes"] for answer in answers) == 20, answers
    assert service.stop() == 0


MODEL = """
import pathlib
import time


class Model:
    def run(self, text):
        return len(text)


def load_model(path):
    while not pathlib.Path({0!r}).exists():
        time.sleep(0.05)
    return Model()

"""


def test_a_model_is_loaded_before_anything_is_consumed(kitchen: Kitchen) -> None:
    loaded = kitchen.home / "loaded"
    service = kitchen.cook("Load a large model", lambda piece: MODEL.format(str(loaded)) + piece)
    eventually(lambda: "starting" in service.command("health").stderr, PATIENCE, every=0.1)
    assert service.command("health").returncode == 1
    loaded.touch()
    service.wait_until_healthy()
    assert service.ask({"text": "hello"})["answer"] == 5


def test_processes_compute_and_end_with_the_service(kitchen: Kitchen) -> None:
    service = kitchen.cook("Compute on several processors", MQ_WORKERS="2")
    service.wait_until_healthy()
    with service.client() as client, ThreadPoolExecutor(2) as pool:
        asked = [{"below": 100}, {"below": 1000}]
        answers = list(pool.map(lambda each: client.request(QUEUE, each, PATIENCE), asked))
        assert [answer["primes"] for answer in answers] == [25, 168]
    assert service.process
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    threads = [path.read_text() for path in children.parent.parent.glob("*/children")]
    processes = " ".join(threads).split()
    assert len(processes) >= 2
    # As a terminal does it: to the processes first.
    for each in processes:
        os.kill(int(each), signal.SIGINT)
    assert service.ask({"below": 10})["primes"] == 4
    assert service.stop(signal.SIGINT) == 0
    eventually(lambda: not any(is_running(int(each)) for each in processes), PATIENCE)


def test_an_upstream_is_asked_no_faster_than_it_likes(kitchen: Kitchen) -> None:
    service = kitchen.cook("Limit the rate of calls to an upstream", MQ_WORKERS="8")
    service.wait_until_healthy()
    with service.client() as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.request(QUEUE, {}, PATIENCE), range(16)))
    times = sorted(answer["asked"] for answer in answers)
    assert times[-1] - times[0] >= 15 / 20 - 0.05


def test_a_request_is_tried_again_until_its_upstream_is_there(kitchen: Kitchen) -> None:
    number = free_port()
    service = kitchen.cook(
        "Try again later",
        lambda piece: replaced(piece, UPSTREAM=f'"http://localhost:{number}/"'),
    )
    service.wait_until_healthy()
    replies: list[dict[Any, Any]] = []
    with service.client() as client:
        asking = threading.Thread(
            target=lambda: replies.append(client.request(QUEUE, {}, PATIENCE)), daemon=True
        )
        asking.start()
        eventually(
            lambda: "comes again" in service.log.read_text(), PATIENCE, service.log.read_text
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "http.server", str(number), "--directory", str(kitchen.home)],
            stderr=subprocess.DEVNULL,
        )
        try:
            asking.join(PATIENCE)
        finally:
            server.kill()
            server.wait()
    assert [b"Directory listing" in reply["page"] for reply in replies] == [True]


def test_what_comes_again_is_not_done_again(kitchen: Kitchen) -> None:
    """The service dies after the payment, before the request is acknowledged."""

    def dying(piece: str) -> str:
        after = "        if request.reply_queue:\n"
        assert after in piece
        dies = f"        if not method.redelivered:\n            os._exit(1)\n{after}"
        return "import os\n" + kitchen.with_database(piece).replace(after, dies)

    service = kitchen.cook("Do it once, though the request comes twice", dying)
    service.wait_until_healthy()
    replies: list[dict[Any, Any]] = []
    with service.client() as client:
        asking = threading.Thread(
            target=lambda: replies.append(client.request(QUEUE, {"cents": 250}, PATIENCE))
        )
        asking.start()
        assert service.process and service.process.wait(PATIENCE) == 1
        service.launch()
        asking.join(PATIENCE)
    assert [reply["paid"] for reply in replies] == [250]
    with sqlite3.connect(kitchen.database) as database:
        assert database.execute("SELECT cents FROM payments").fetchall() == [(250,)]


def test_each_recipe_has_a_test(default_project: BakedProject) -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    titles = recipes(default_project.read("docs/recipes.md"))
    assert len(titles) >= 10
    assert [title for title in titles if f'"{title}"' not in text] == []
