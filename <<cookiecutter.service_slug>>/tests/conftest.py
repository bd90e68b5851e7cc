"""A broker and the service on it, for the tests that want the real thing."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from << cookiecutter.package_name >>.mq_connector.commands.session import (
    Session,
)
from << cookiecutter.package_name >>.mq_connector.errors import (
    MQError,
)
from << cookiecutter.package_name >>.service import (
    << cookiecutter.__class_name >>Service as Service,
)

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "<< cookiecutter.package_name >>"]
sys.path.insert(0, str(ROOT / "rabbitmq"))


@dataclass
class Running:
    """The service's process."""

    process: subprocess.Popen
    environment: dict

    def command(self, *words):
        """Run one of the service's commands beside it."""
        return subprocess.run(
            [*COMMAND, *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def stop(self, number):
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(40)


@pytest.fixture(scope="session")
def broker():
    """Environment variables that lead to a broker: the configured one if it answers, else a private one."""
    try:
        with Session(Service().address(), timeout=2.0):
            pass
    except MQError as error:
        reason = str(error)
    else:
        yield {}
        return
    if not (ROOT / "rabbitmq" / "definitions.json").exists():
        pytest.skip(f"{reason}; and there are no definitions: run `python rabbitmq/provision.py`")
    from local import LocalBroker, NoServer

    try:
        local = LocalBroker()
    except NoServer as error:
        pytest.skip(f"{reason}; {error}")
    with local:
        yield {"MQ_SERVER": "localhost", "MQ_PORT": str(local.port)}


@pytest.fixture
def runtime():
    """A folder of the test's own for the service's socket, whose path must be short: tmp_path isn't."""
    with tempfile.TemporaryDirectory(prefix="mq-", dir="/tmp") as folder:
        yield folder


@pytest.fixture
def service(broker, runtime):
    """The service, consuming; what a test leaves running is stopped."""
    # What .env has for the container would need its extras here, and ports that may be taken.
    without = {"MQ_METRICS_PORT": "", "MQ_TRACING": ""}
    environment = {**os.environ, **without, **broker, "XDG_RUNTIME_DIR": runtime}
    process = subprocess.Popen(COMMAND, cwd=ROOT, env=environment)
    running = Running(process, environment)
    deadline = time.monotonic() + 30
    while running.command("health").returncode:
        assert process.poll() is None, "the service has ended by itself"
        assert time.monotonic() < deadline, "the service isn't consuming after 30 s"
        time.sleep(0.1)
    yield running
    process.terminate()
    process.wait(40)
