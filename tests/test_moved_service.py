"""A service in the incumbent's style, before and after its move as docs/move-a-service.md has it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import brokers
import pytest
from baked import TEMPLATE, BakedProject, incumbent_python, outside, settings
from provisioning import password_fits
from running import Service, running

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

#: The page's commands, in order.
PAGE = (TEMPLATE / "docs" / "move-a-service.md").read_text(encoding="utf-8")
GENERATE, PROVISION, LOCK, RENAME, DOCTOR = (
    textwrap.dedent(block)
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
)
PASSWORD = "of-the-old-service"

#: As services of Neon's are written: a connector, a registered consumer, a reply by send_message.
OLD = """
import time
from neon_mq_connector.connector import MQConnector
from neon_mq_connector.utils.network_utils import b64_to_dict
from neon_mq_connector.utils.rabbit_utils import create_mq_callback


class Metrics(MQConnector):
    def __init__(self, config=None, service_name="neon_metrics"):
        super().__init__(config, service_name)
        self.vhost = "/neon_metrics"
        self.register_consumer("metrics", self.vhost, "neon_metrics_input", self.handle, auto_ack=False)

    def handle(self, channel, method, properties, body):
        request = b64_to_dict(body)
        reply = {"heard": request["text"], "message_id": request["message_id"]}
        self.send_message(reply, self.vhost, queue=request["routing_key"])
        channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    service = Metrics()
    service.run()
    while True:
        time.sleep(1)
"""


def type_in(script: str, folder: Path, stdin: str = "", **env: str) -> str:
    """Run commands of the page in a shell that stops at the first failure."""
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**outside(), "PYTHONPATH": "", "VIRTUAL_ENV": "", **env},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """After step 1, with the old service's password, and its module copied."""
    folder = tmp_path_factory.mktemp("moved")
    where = {
        "COOKIECUTTER_CONFIG": str(settings(folder / "settings")),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # The one word that can't be had as printed: a repository's address where there is no network.
    assert "gh:org/neon-mq-template" in GENERATE
    command = GENERATE.replace("gh:org/neon-mq-template", str(TEMPLATE))
    type_in(command, folder, 20 * "\n", **where)
    names = {"package_name": "neon_metrics", "vhost": "/neon_metrics"}
    made = BakedProject(folder / "neon-metrics", {**names, "input_queue": "neon_metrics_input"})
    config = json.loads(made.read("mq_config.json"))
    # The incumbent's code reads only `user`.
    config["users"]["neon_metrics"] = {"user": "neon_metrics", "password": PASSWORD}
    (made / "mq_config.json").write_text(json.dumps(config))
    type_in(PROVISION, made.path)
    assert password_fits(made, "neon_metrics", PASSWORD)
    (made.package / "metrics.py").write_text(OLD)
    return made


def heard(project: BakedProject, home: Path, python: str) -> dict[str, object]:
    """Run the old service and return what the public client hears from it.

    :param python: of the environment that it runs in
    """
    with brokers.installed(project) as port:
        asking = Service(project, port, home)
        config = {**json.loads(project.read("mq_config.json")), "port": port}
        file = home / "config.json"
        file.write_text(json.dumps(config))
        environment = {
            **os.environ,
            "PYTHONPATH": str(project / "src"),
            "NEON_MQ_CONFIG_PATH": str(file),
            "HOME": str(home),
            "MQ_QUEUE_TYPE": "legacy",
        }
        log = home / "old.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [python, "-B", "-m", "neon_metrics.metrics"],
                cwd=home,
                env=environment,
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + 30
            while True:
                [reply] = asking.ask_as_neon({"text": "hi"})
                if reply:
                    return reply
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def test_it_runs_after_the_move_as_before(project: BakedProject, tmp_path: Path) -> None:
    # The incumbent declares the queue that it replies to, which takes wide rights.
    definitions = project / "rabbitmq" / "definitions.json"
    least = definitions.read_text()
    change = json.loads(least)
    for each in change["permissions"]:
        if each["user"] == "neon_metrics":
            each.update(configure=".*", write=".*", read=".*")
    definitions.write_text(json.dumps(change))
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    before = heard(project, tmp_path / "before", incumbent_python())
    assert before["heard"] == "hi"

    type_in(RENAME, project.path)
    moved = (project.package / "metrics.py").read_text()
    assert "import" in moved and "from neon_mq_connector" not in moved
    definitions.write_text(least)
    assert heard(project, tmp_path / "after", sys.executable)["heard"] == "hi"


def test_with_the_new_entry_point_it_has_all_commands(
    project: BakedProject, tmp_path: Path
) -> None:
    type_in(RENAME, project.path)
    entry = project.package / "__main__.py"
    text = entry.read_text(encoding="utf-8")
    old = re.findall(r"from \.service import (\w+)", text)
    assert old == ["NeonMetricsService"]
    entry.write_text(text.replace("from .service", "from .metrics").replace(old[0], "Metrics"))
    with (
        brokers.installed(project) as port,
        running(project, port, tmp_path / "home") as service,
    ):
        assert service.ask({"text": "hi"})["heard"] == "hi"
        assert service.ask_as_neon({"text": "hi"})[0]["heard"] == "hi"
        doctor = DOCTOR.split()
        assert doctor[:3] == ["python", "-m", "neon_metrics"]
        seen = service.command(*doctor[3:])
        assert seen.returncode == 0, seen.stdout
        assert "FAIL" not in seen.stdout
        assert "0 dead letters" in service.command("dead").stdout
        assert service.stop() == 0, service.log.read_text()


def test_its_dependencies_are_pinned(project: BakedProject) -> None:
    metadata = project / "pyproject.toml"
    text = metadata.read_text(encoding="utf-8")
    old = '    "python-dotenv>=1.2,<2",\n'
    assert text.count(old) == 1
    metadata.write_text(text.replace(old, f'{old}    "PyYAML>=6,<7",\n'))
    type_in(LOCK, project.path)
    assert re.search(r"^pyyaml==6\S* \\$", project.read("requirements.txt"), re.MULTILINE)
