"""The generated service as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bytecode
import pytest
from baked import BakedProject
from running import can_be_asked
from waiting import eventually

from .broker import PASSWORD, SERVICE, SERVICE_QUEUE, Broker
from .conftest import Record

QUEUE = SERVICE_QUEUE


class Service:
    """`python -m neon_echo` of a project, with its own configuration and its own runtime folder."""

    def __init__(self, project: BakedProject, folder: Path, port: int, password: str) -> None:
        bytecode.lend(project.package)
        user = {"username": SERVICE, "password": password}
        config = {"server": "127.0.0.1", "port": port, "users": {SERVICE: user}}
        self.config = folder / "config.json"
        self.config.write_text(json.dumps(config), encoding="utf-8")
        self.log = folder / "service.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MQ_")}
        self._environment = {
            **kept,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PYTHONPATH": str(project.path / "src"),
            "NEON_MQ_CONFIG_PATH": str(self.config),
        }
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, healthy: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """Start the service, and wait until it is healthy."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", SERVICE],
                cwd=self._folder,
                env={**self._environment, **environment},
                stdout=log,
                stderr=log,
            )
        self._running.append(process)
        if healthy:
            eventually(lambda: can_be_asked(process, self._folder), what="a health check")
            eventually(lambda: self.is_healthy() or process.poll() is not None, what="healthy")
            assert process.poll() is None, self.said
        return process

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another of the service's commands."""
        return self.run("-m", SERVICE, *words)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the service's surroundings."""
        return subprocess.run(
            [sys.executable, "-B", *words],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a line of a shell, in which `service` is the service's command."""
        command = f"{sys.executable} -B -m {SERVICE}"
        return subprocess.run(
            ["bash", "-c", script.replace("service ", f"{command} ")],
            cwd=self._folder,
            env={**self._environment, "PYTHONUNBUFFERED": "", **environment},
            capture_output=True,
            encoding=environment.get("PYTHONIOENCODING", "utf-8"),
            timeout=90,
        )

    def is_healthy(self) -> bool:
        return self.command("health").returncode == 0

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def end(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait(60)


Make = Callable[..., Service]


@pytest.fixture
def make(project: BakedProject, tmp_path: Path, broker: Broker) -> Iterator[Make]:
    """A service whose handler sleeps for as long as the request asks it to."""
    made: list[Service] = []
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    answer = 'return {"echo": request}'
    assert answer in text
    slow = f'import time; time.sleep(request.get("sleep", 0)); {answer}'
    file.write_text(text.replace(answer, slow), encoding="utf-8")

    def make(port: int | None = None, password: str = PASSWORD) -> Service:
        folder = tmp_path / f"run-{len(made)}"
        folder.mkdir()
        made.append(Service(project, folder, port or broker.port, password))
        return made[-1]

    yield make
    for service in made:
        service.end()


def unable(
    service: Service,
    process: subprocess.Popen[bytes],
    record: Record | None = None,
    name: str = "",
) -> str:
    """Assert that the service ends with one clear line, unhealthy all the time; returns the line.

    :param record: takes how long that took, under this name
    """
    began = time.monotonic()
    while process.poll() is None:
        assert time.monotonic() - began < 60, f"still trying: {service.said}"
        assert not service.is_healthy()
    assert process.returncode == 1
    assert "Traceback" not in service.said
    lines = [line for line in service.said.splitlines() if line.strip()]
    assert len(lines) == 1, service.said
    if record is not None:
        record(f"start: {name}", bound=5.0, recovery=round(time.monotonic() - began, 3))
    return lines[0]
