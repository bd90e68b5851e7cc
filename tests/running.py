"""A generated service as a process of its own, and the ways to ask it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bytecode
import pika
from baked import BakedProject, incumbent_python
from incumbent import INCUMBENT, GaveNothing, tried
from mq_connector import Client
from mq_connector.connection import Connection

#: Asks with the public client, whose configuration is Neon's own; see `Service.ask_as_neon`.
NEON_CLIENT = """
import json, sys
from neon_mq_connector.utils.client_utils import send_mq_request
vhost, queue, request, count = sys.argv[1:]
for _ in range(int(count)):
    print("REPLY", json.dumps(send_mq_request(vhost, json.loads(request), queue, timeout=20)), flush=True)
"""


#: Ports that `free_port` has named: who asked for one may not listen on it yet.
_named: set[int] = set()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment, from below those that
    outgoing connections get: so nobody comes by it until it is used."""
    while True:
        port = random.randint(10_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in _named:
                _named.add(port)
                return port


def is_running(process: int) -> bool:
    """Whether there is a process of this id, and it hasn't ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def can_be_asked(process: subprocess.Popen[bytes], runtime: Path) -> bool:
    """Whether the socket of a service's health check is there, or it has ended.

    Whoever waits for a service with its command `health` starts that only then, as it is a process, too.
    """
    folders = (runtime, Path(os.environ.get("TMPDIR", "/tmp")), Path("/tmp"))
    found = (each for folder in folders for each in folder.glob(f"mq-*/{process.pid}.sock"))
    return process.poll() is not None or any(found)


class Service:
    """A running service.

    :param port: where its broker listens on this machine
    """

    def __init__(self, project: BakedProject, port: int, home: Path, **settings: str) -> None:
        self.project = project
        self.port = port
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MQ_")},
            "PYTHONPATH": str(project.path / "src"),
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "MQ_PORT": str(port),
            **settings,
        }
        self.log = home / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def terminal(self) -> dict[str, str]:
        """The environment of a terminal in which `python` is the tests' own."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**self.environment, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run one of the service's commands, such as ``request``."""
        bytecode.lend(self.project.package)
        return subprocess.run(
            [sys.executable, "-B", "-m", self.project.answers["package_name"], *words],
            cwd=self.project.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def launch(self) -> None:
        """Start the process."""
        bytecode.lend(self.project.package)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-B", "-m", self.project.answers["package_name"]],
                cwd=self.project.path,
                env=self.environment,
                stderr=log,
            )

    def wait_until_healthy(self) -> None:
        """Wait until it says that it consumes."""
        assert self.process is not None
        deadline = time.monotonic() + 60
        runtime = Path(self.environment["XDG_RUNTIME_DIR"])
        while not can_be_asked(self.process, runtime) or self.command("health").returncode:
            assert self.process.poll() is None, f"it has ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not healthy after 60 s:\n{self.log.read_text()}"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """End what is still running: politely, then not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def parameters(self) -> pika.ConnectionParameters:
        """How to connect as the service's own user."""
        answers = self.project.answers
        key = str(answers["__user_key"])
        user = json.loads(self.project.read("mq_config.json"))["users"][key]
        login = pika.PlainCredentials(user["username"], user["password"])
        return pika.ConnectionParameters("localhost", self.port, answers["vhost"], login)

    def client(self) -> Client:
        """A client in this process, for many requests; to be closed."""
        key = str(self.project.answers["__user_key"])
        return Client(Connection([self.parameters()]), f"{key}.reply.{secrets.token_hex(16)}")

    @contextmanager
    def channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        """A channel of the service's own user."""
        connection = pika.BlockingConnection(self.parameters())
        try:
            yield connection.channel()
        finally:
            connection.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask with the service's own client."""
        done = self.command("request", json.dumps(request), "--timeout", "40")
        assert done.returncode == 0, f"{done.stderr}\n{self.log.read_text()}"
        reply: dict[str, Any] = json.loads(done.stdout)
        return reply

    def ask_as_neon(self, request: Mapping[str, Any], times: int = 1) -> list[dict[str, Any]]:
        """Ask with the unmodified public client, under the credentials of Neon's clients."""
        config = json.loads(self.project.read("mq_config.json"))
        folder = self.home / "neon"
        folder.mkdir(exist_ok=True)
        # JSON is YAML, and this is the file that the incumbents' images are told to read.
        (folder / "diana.yaml").write_text(json.dumps({"MQ": {**config, "port": self.port}}))
        answers = self.project.answers
        words = [answers["vhost"], answers["input_queue"], json.dumps(request), str(times)]
        environment = {
            **os.environ,
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "OVOS_CONFIG_BASE_FOLDER": "neon",
            "OVOS_CONFIG_FILENAME": "diana.yaml",
        }

        def once(seconds: float) -> list[dict[str, Any]]:
            done = subprocess.run(
                [incumbent_python(), "-c", NEON_CLIENT, *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=seconds + 20 + times,
            )
            replies = [
                json.loads(line.removeprefix("REPLY "))
                for line in done.stdout.splitlines()
                if line.startswith("REPLY ")
            ]
            if len(replies) != times:
                raise GaveNothing(f"{done.stdout}\n{done.stderr}")
            return replies

        return tried(INCUMBENT, once)


@contextmanager
def running(project: BakedProject, port: int, home: Path, **settings: str) -> Iterator[Service]:
    """A service that is healthy; stopped at the end if the test hasn't."""
    service = Service(project, port, home, **settings)
    try:
        service.launch()
        service.wait_until_healthy()
        yield service
    finally:
        service.kill()
