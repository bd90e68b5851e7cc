"""Services in the incumbent's style, before and after their move as docs/move-a-service.md has it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import brokers
import pytest
from baked import TEMPLATE, BakedProject, incumbent_python, settings, with_uv
from conftest import Count
from pages import shell_blocks, type_in
from provisioning import password_fits
from running import Service, running
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = (TEMPLATE / "docs" / "move-a-service.md").read_text(encoding="utf-8")


GENERATE, COPY, PROVISION, RENAME, SHIM, LOCK, UNINSTALL, DOCTOR = shell_blocks(PAGE)
QUEUES, MAKE_SERVICE = shell_blocks(PAGE, "python")
PACKAGE, KEY, VHOST = "neon_metrics_service", "neon_metrics_connector", "/neon_metrics"
INPUT, CONNECTIONS = "neon_metrics_input", "neon_connections_input"
PASSWORD = "of-the-old-service"

#: A package whose key under `users` has another name, whose modules import themselves absolutely, and
#: which waits for signals by itself.
OLD = {
    "__init__.py": "",
    "__main__.py": f"""
import signal
import threading

from {PACKAGE}.metrics_connector import NeonMetricsConnector


def main():
    NeonMetricsConnector(config=None, service_name="{KEY}").run()
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())
    asked_to_end.wait()


if __name__ == "__main__":
    main()
""",
    "metrics_utils.py": """
def shout(text):
    return text.upper()
""",
}
#: As its connector is written: a handler of pika's kind, and one that is decorated.
HANDLERS = f"""
from neon_mq_connector.connector import MQConnector
from neon_mq_connector.utils.network_utils import b64_to_dict
from neon_mq_connector.utils.rabbit_utils import create_mq_callback


class Base(MQConnector):
    def __init__(self, config, service_name):
        super().__init__(config, service_name)
        self.vhost = "{VHOST}"
        self.register_consumer("metrics", self.vhost, "{INPUT}", self.metric, auto_ack=False)
        self.register_consumer("connections", self.vhost, "{CONNECTIONS}", self.connection)

    def metric(self, channel, method, properties, body):
        request = b64_to_dict(body)
        reply = {{"heard": self.shout(request["text"]), "message_id": request["message_id"]}}
        self.send_message(reply, self.vhost, queue=request["routing_key"])
        channel.basic_ack(method.delivery_tag)

    @create_mq_callback()
    def connection(self, body):
        return {{"connected": self.shout(body["text"])}}
"""
CONNECTOR = f"""
from {PACKAGE}.metrics_utils import shout


class NeonMetricsConnector(Base):
    def shout(self, text):
        return shout(text)
"""
#: Where the connector is imported: by a module of the service, or only by a library of somebody else's,
#: which can't be changed and uses the client as well.
KINDS = {
    "its own modules": ({"metrics_connector.py": HANDLERS + CONNECTOR}, {}),
    "a library": (
        {"metrics_connector.py": "from metrics_library.rmq import Base\n" + CONNECTOR},
        {
            "__init__.py": "from neon_mq_connector.utils.client_utils import send_mq_request\n",
            "rmq.py": HANDLERS,
        },
    ),
}


def put(folder: Path, files: dict[str, str]) -> None:
    """Write files into a new folder."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def put_in_place(path: Path, pattern: str, text: str) -> None:
    """What the page tells one to edit: one part of a file becomes the page's."""
    before = path.read_text(encoding="utf-8")
    after, number = re.subn(pattern, lambda _: text, before, flags=re.MULTILINE | re.DOTALL)
    assert number == 1, f"{path}: {number} times {pattern!r}"
    path.write_text(after, encoding="utf-8")


@dataclass(frozen=True)
class Moved:
    """A service that has gone the way of the page."""

    project: BakedProject
    #: The old repository, and what is installed beside the service.
    old: Path
    libraries: Path

    def path(self, source: Path) -> str:
        """PYTHONPATH for a service whose package is there."""
        return f"{source}{os.pathsep}{self.libraries}"


@pytest.fixture(scope="module", params=KINDS)
def moved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    folder = tmp_path_factory.mktemp("moved")
    modules, library = KINDS[request.param]
    put(folder / PACKAGE / PACKAGE, {**OLD, **modules})
    put(folder / "libraries" / "metrics_library", library)
    where = {
        "COOKIECUTTER_CONFIG": str(settings(folder / "settings")),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # The one word that can't be had as printed: a repository's address where there is no network.
    assert "gh:org/neon-mq-template" in GENERATE
    command = GENERATE.replace("gh:org/neon-mq-template", str(TEMPLATE))
    type_in(command, folder, where, typed=20 * "\n")
    answers = {"package_name": PACKAGE, "vhost": VHOST, "input_queue": INPUT}
    made = BakedProject(folder / "neon-metrics", answers)

    type_in(COPY, made.path)
    if request.param == "a library":
        put_in_place(made / "rabbitmq" / "topology.py", r"^QUEUES\b.*?\n", QUEUES)
    config = json.loads(made.read("mq_config.json"))
    assert KEY in config["users"]
    # The incumbent's code reads only `user`.
    config["users"][KEY] = {"user": KEY, "password": PASSWORD}
    (made / "mq_config.json").write_text(json.dumps(config))
    type_in(PROVISION, made.path)
    assert password_fits(made, KEY, PASSWORD)

    put_in_place(
        made.package / "__main__.py", r"^def make_service\(.*?(?=^\n\n|^if )", MAKE_SERVICE
    )
    type_in(RENAME if request.param == "its own modules" else SHIM, made.path)
    return Moved(made, folder / PACKAGE, folder / "libraries")


@pytest.fixture(scope="module", params=brokers.EVERYWHERE)
def port(request: pytest.FixtureRequest, moved: Moved) -> Iterator[int]:
    """Of a broker with the definitions of the moved service."""
    with brokers.at(request.param, moved.project) as port:
        yield port


def other_queue(service: Service) -> Service:
    """The same service, for questions to its second queue."""
    project = service.project
    answers = {**project.answers, "input_queue": CONNECTIONS}
    return Service(replace(project, answers=answers), service.port, service.home)


def test_before_the_move_it_runs_on_the_public_connector(moved: Moved, tmp_path: Path) -> None:
    project = moved.project
    # The incumbent declares the queue that it replies to, which takes wide rights.
    definitions = project / "rabbitmq" / "definitions.json"
    least = definitions.read_text()
    change = json.loads(least)
    for each in change["permissions"]:
        if each["user"] == KEY:
            each.update(configure=".*", write=".*", read=".*")
    definitions.write_text(json.dumps(change))
    try:
        with brokers.installed(project) as port:
            asking = Service(project, port, tmp_path)
            config = {**json.loads(project.read("mq_config.json")), "port": port}
            file = tmp_path / "config.json"
            file.write_text(json.dumps(config))
            environment = {
                **os.environ,
                "PYTHONPATH": moved.path(moved.old),
                "NEON_MQ_CONFIG_PATH": str(file),
                "HOME": str(tmp_path),
            }
            log = tmp_path / "old.log"
            with log.open("w") as output:
                process = subprocess.Popen(
                    [incumbent_python(), "-B", "-m", PACKAGE],
                    cwd=tmp_path,
                    env=environment,
                    stdout=output,
                    stderr=output,
                )
            try:
                deadline = time.monotonic() + 120
                while not (reply := asking.ask_as_neon({"text": "hi"})[0]):
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                assert reply["heard"] == "HI"
            finally:
                process.kill()
                process.wait()
    finally:
        definitions.write_text(least)


def test_it_runs_after_the_move_with_all_commands(
    moved: Moved, port: int, tmp_path: Path, record_property: Count
) -> None:
    project = moved.project
    environment = {"PYTHONPATH": moved.path(project / "src")}
    with running(project, port, tmp_path, **environment) as service:
        assert service.ask({"text": "hi"})["heard"] == "HI"
        assert service.ask_as_neon({"text": "hi"})[0]["heard"] == "HI"
        assert other_queue(service).ask_as_neon({"text": "hi"})[0]["connected"] == "HI"
        assert "FAIL" not in type_in(DOCTOR, project.path, service.terminal)
        for block in shell_blocks(PAGE):  # the fixture and the last test run the others
            record_property("shell blocks run", block)
        assert "0 dead letters" in service.command("dead").stdout
        assert service.stop() == 0, service.log.read_text()


@pytest.mark.parametrize("port", ["installed"], indirect=True)
def test_its_old_entry_point_ends_on_sigterm(moved: Moved, port: int, tmp_path: Path) -> None:
    project = moved.project
    entry = project.package / "old_main.py"
    text = (moved.old / PACKAGE / "__main__.py").read_text(encoding="utf-8")
    entry.write_text(text, encoding="utf-8")
    try:
        service = Service(project, port, tmp_path, PYTHONPATH=moved.path(project / "src"))
        with service.log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", f"{PACKAGE}.old_main"],
                cwd=project.path,
                env=service.environment,
                stderr=output,
            )
        try:
            eventually(lambda: service.ask_as_neon({"text": "hi"})[0].get("heard") == "HI")
            process.terminate()
            assert process.wait(60) == 0, service.log.read_text()
        finally:
            process.kill()
            process.wait()
    finally:
        entry.unlink()


@pytest.mark.parametrize("moved", ["its own modules"], indirect=True)
def test_its_dependencies_are_pinned(moved: Moved) -> None:
    project = moved.project
    metadata = project / "pyproject.toml"
    text = metadata.read_text(encoding="utf-8")
    old = '    "python-dotenv>=1.2,<2",\n'
    assert text.count(old) == 1
    metadata.write_text(text.replace(old, f'{old}    "PyYAML>=6,<7",\n'))
    try:
        type_in(LOCK, project.path, with_uv())
        assert re.search(r"^pyyaml==6\S* \\$", project.read("requirements.txt"), re.MULTILINE)
        type_in(UNINSTALL, project.path)
    finally:
        metadata.write_text(text)
