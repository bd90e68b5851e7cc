"""A service in the incumbent's style, before and after its move as docs/move-a-service.md has it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import brokers
import pytest
from baked import TEMPLATE, BakedProject, bake_into
from provisioning import provision
from running import Service

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    made = bake_into(tmp_path_factory.mktemp("moved"), {"service_name": "Neon Metrics"})
    provision(made, "--client-user")
    config = json.loads(made.read("mq_config.json"))
    # The incumbent's code reads only this key.
    config["users"]["neon_metrics"]["user"] = "neon_metrics"
    (made / "mq_config.json").write_text(json.dumps(config))
    (made.package / "metrics.py").write_text(OLD)
    return made


def heard(project: BakedProject, home: Path) -> dict[str, object]:
    """Run the old service and return what the public client hears from it."""
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
                [sys.executable, "-B", "-m", "neon_metrics.metrics"],
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
    before = heard(project, tmp_path / "before")
    assert before["heard"] == "hi"

    page = (TEMPLATE / "docs" / "move-a-service.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^ +(find src .*)$", page, re.MULTILINE)
    subprocess.run(["bash", "-ec", command], cwd=project.path, check=True)
    moved = (project.package / "metrics.py").read_text()
    assert "import" in moved and "from neon_mq_connector" not in moved
    definitions.write_text(least)
    assert heard(project, tmp_path / "after")["heard"] == "hi"
