"""docs/calling.md of the generated repository, as printed: with no more rights than provision.py gives for it."""

from __future__ import annotations

import ast
import base64
import json
import re
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import brokers
import pika
import pytest
from baked import BakedProject, bake_into
from pages import shell_blocks, type_in
from provisioning import DEFINITIONS, load
from running import Service, running
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

THERE, FORECAST = "/forecast", "forecast_input"
#: What lets a test call what a handler of one's own would.
TRIALS = """

class Tried(NeonEchoService):
    def answer(self, request):
        if request["text"] == "tell":
            self.tell()
            return {}
        if request["text"] == "heard":
            return {"heard": getattr(self, "last_event", None)}
        if request["text"] == "nobody":
            return self.ask("nobodys", {})
        if request["text"] == "elsewhere":
            return self.ask("somebodys", {}, vhost="/nowhere")
        if request["text"] == "unnamed":
            return self.publish("unnamed", "", {})
        if request["text"] == "as Neon does":
            from .mq_connector.compat.utils.client_utils import send_mq_request

            return send_mq_request("/forecast", {"day": "today"}, "forecast_input", timeout=10)
        return super().answer(request)


NeonEchoService = Tried
"""


def indented(text: str, by: int) -> str:
    return textwrap.indent(text, " " * by)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """A repository into which somebody has typed the whole page."""
    made = bake_into(tmp_path_factory.mktemp("calling"))
    source = made.package / "service.py"
    text = source.read_text()
    page = made.read("docs/calling.md")
    for block in shell_blocks(page, "python"):
        if block.startswith("self.consumers["):
            text = text.replace("    def answer(", f"{indented(block, 8)}\n    def answer(", 1)
        elif block.startswith(("publishes", "calls")):
            text = re.sub(
                r"(?<=\n)    def __init__", f"{indented(block, 4)}\n    def __init__", text, count=1
            )
        elif block.startswith("def answer("):
            text, number = re.subn(
                r"    def answer\(.*?(?=    def )",
                indented(block, 4) + "\n",
                text,
                count=1,
                flags=re.S,
            )
            assert number == 1
        elif block.startswith("def test_"):
            test = made / "tests" / "test_handler.py"
            head = test.read_text().partition("def harness(")[0]
            test.write_text(head + block)
        else:
            assert block.startswith("def "), block
            text += f"\n{indented(block, 4)}"
    source.write_text(text + TRIALS)
    command, _ = shell_blocks(page)
    type_in(command, made.path)
    made.run("python", "rabbitmq/provision.py", "--check")
    return made


@pytest.fixture(scope="module")
def service(
    project: BakedProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Any]]:
    with brokers.installed_node(project) as broker:
        broker.ctl("add_user", "forecaster", "sunny")
        for vhost in (THERE, "/neon_echo"):
            broker.ctl("set_permissions", "-p", vhost, "forecaster", ".*", ".*", ".*")
        broker.ctl("add_vhost", "/nowhere")
        with (
            Forecaster(broker.port),
            running(project, broker.port, tmp_path_factory.mktemp("home")) as one,
        ):
            yield one, broker


class Forecaster:
    """A service of Neon's in another virtual host: it declares the queue that it replies to."""

    def __init__(self, port: int) -> None:
        self._parameters = pika.ConnectionParameters(
            "127.0.0.1", port, THERE, pika.PlainCredentials("forecaster", "sunny")
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Forecaster:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)

    def _run(self) -> None:
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            channel.queue_declare(FORECAST)
            while not self._ended.is_set():
                connection.process_data_events(0.05)
                _, _, body = channel.basic_get(FORECAST, auto_ack=True)
                if body is None:
                    continue
                request = ast.literal_eval(json.loads(base64.b64decode(body)))
                reply = {"text": "sun", "message_id": request["message_id"]}
                channel.queue_declare(request["routing_key"])
                encoded = base64.b64encode(json.dumps(str(reply)).encode())
                channel.basic_publish("", request["routing_key"], encoded)


def ask(service: Service, text: str) -> dict[str, Any]:
    done = service.command("request", json.dumps({"text": text}), "--timeout", "60")
    reply: dict[str, Any] = json.loads(done.stdout)
    return reply


def test_what_the_page_asks_is_answered(service: tuple[Service, Any]) -> None:
    reply = ask(service[0], "tea")
    assert (reply["ordered"], reply["forecast"]) == ("tea", "sun")


def test_what_the_page_publishes_is_heard(service: tuple[Service, Any]) -> None:
    assert ask(service[0], "tell")
    heard = eventually(lambda: ask(service[0], "heard").get("heard"), 60, every=0.2)
    assert heard[0] in ("", "north.storm")


def test_what_isnt_there_or_isnt_named_is_said(service: tuple[Service, Any]) -> None:
    assert ask(service[0], "nobody")["error"].startswith("Unroutable: ")
    elsewhere = ask(service[0], "elsewhere")["error"]
    assert "name the queue with its vhost in `calls`" in elsewhere
    assert "name 'unnamed' in `publishes`" in ask(service[0], "unnamed")["error"]
    # None of which has cost the service anything.
    assert ask(service[0], "tea")["ordered"] == "tea"


def test_neons_own_function_asks_with_the_services_login(service: tuple[Service, Any]) -> None:
    assert ask(service[0], "as Neon does")["text"] == "sun"


def test_the_doctor_finds_all_of_it_in_order(service: tuple[Service, Any]) -> None:
    seen = service[0].command("doctor")
    assert seen.returncode == 0, seen.stdout


def test_a_killed_service_leaves_no_reply_queue_for_ever(service: tuple[Service, Any]) -> None:
    ask(service[0], "tea")
    for vhost in ("/neon_echo", THERE):
        listed = service[1].ctl("list_queues", "-p", vhost, "name", "policy", "--formatter", "json")
        own = [each for each in json.loads(listed) if ".reply." in each["name"]]
        assert own and {each["policy"] for each in own} == {"neon_echo replies"}


def test_the_pages_test_passes(project: BakedProject) -> None:
    done = project.run(
        "python", "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_handler.py"
    )
    assert "1 passed" in done.stdout


def test_the_definitions_have_what_the_page_names(project: BakedProject) -> None:
    made_for = load(project, DEFINITIONS)["made_for"]
    assert made_for == {
        "queues": ["neon_echo_input", "orders", "storms"],
        "hears": ["alerts", "weather"],
        "publishes": ["alerts", "weather"],
        "vhosts": [THERE],
    }
