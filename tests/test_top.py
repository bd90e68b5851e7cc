"""`top` of a generated service: in a real terminal, beside real processes and their broker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import brokers
import pytest
from baked import BakedProject
from running import Service, free_port, running
from waiting import eventually

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

#: Seconds within which a screen is to show something, on a busy machine.
SHOWN = 90
#: The handler, as these tests need it: what it raises would clear a terminal.
ANSWER = """        if "fail" in request:
            raise ValueError("asked to fail \\x1b[2J\\x1b[31m")
        return {"echo": request}
"""


class Terminal:
    """A terminal in tmux, in which one command runs.

    :param command: as typed
    """

    def __init__(self, command: str, folder: Path, env: dict[str, str], width: int = 160) -> None:
        self._name = f"neon-test-{uuid.uuid4().hex[:8]}"
        #: What it leaves behind, and how it ended.
        self.ended = folder / f"{self._name}.ended"
        # The shell itself is not to end by the key that ends the command.
        script = f"trap : INT; {command}; echo ended $? >{shlex.quote(str(self.ended))}; echo back; sleep 300"
        size = ["-x", str(width), "-y", "50"]
        started = ["-f", "/dev/null", "new-session", "-d", *size, "sh", "-c", script]
        self._tmux(*started, env=env, cwd=folder)

    def _tmux(self, *words: str, **options: Any) -> str:
        command = ["tmux", "-L", self._name, *words]
        said: str = subprocess.check_output(command, text=True, timeout=60, **options)
        return said

    def screen(self) -> str:
        """What stands there now."""
        return self._tmux("capture-pane", "-p")

    def shows(self, pattern: str) -> str:
        """Wait until it does."""
        eventually(
            lambda: re.search(pattern, self.screen()),
            SHOWN,
            lambda: f"{pattern!r} in\n{self.screen()}",
            every=0.2,
        )
        return self.screen()

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def close(self) -> None:
        self._tmux("kill-server")


@dataclass
class Stage:
    """Two processes of a service, and their broker."""

    project: BakedProject
    broker: Any
    services: list[Service]
    ports: list[int]

    @property
    def words(self) -> list[str]:
        """What asks both."""
        return [word for port in self.ports for word in ("--at", f"localhost:{port}")]

    def terminal(self, *words: str, width: int = 160) -> Terminal:
        command = shlex.join([sys.executable, "-B", "-m", "neon_echo", "top", *words])
        env = {**self.services[0].environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        for name in ("COLUMNS", "LINES"):  # of the terminal of these tests, which isn't this one
            env.pop(name, None)
        return Terminal(command, self.project.path, env, width)


@pytest.fixture(scope="module")
def stage(
    default_project: BakedProject, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("top")
    path = shutil.copytree(default_project.path, folder / "neon-echo", symlinks=True)
    project = BakedProject(Path(path), default_project.answers)
    handler = project.package / "service.py"
    code = handler.read_text("utf-8")
    handler.write_text(code.replace('        return {"echo": request}\n', ANSWER))
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        broker = stack.enter_context(brokers.installed_node(project))
        services = [
            stack.enter_context(
                running(project, broker.port, folder / f"home{port}", MQ_METRICS_PORT=str(port))
            )
            for port in ports
        ]
        yield Stage(project, broker, services, ports)


@pytest.fixture
def terminal(stage: Stage) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux on this machine: apt-get install tmux")
    shown = stage.terminal(*stage.words, "--every", "0.5")
    yield shown
    shown.close()


def test_it_shows_all_processes_and_the_queue_and_ends_in_order(
    stage: Stage, terminal: Terminal
) -> None:
    seen = terminal.shows("2 of 2 processes answer")
    assert "RabbitMQ 3." in seen or "RabbitMQ 4." in seen
    for port in stage.ports:
        assert f"127.0.0.1:{port}" in seen
    terminal.shows(r"neon_echo_input +0 +2 +0 ")
    terminal.press("C-c")
    eventually(terminal.ended.exists, SHOWN, terminal.screen)
    assert terminal.ended.read_text() == "ended 0\n"
    after = terminal.shows("back")
    assert "processes answer" not in after, "the terminal is as it was"


def test_rates_dead_letters_and_errors_come_and_no_text_reaches_the_terminal(
    stage: Stage, terminal: Terminal
) -> None:
    terminal.shows("no errors")
    stage.services[0].command("request", json.dumps({"fail": True, "message_id": "the-one"}))
    seen = terminal.shows("ValueError: asked to fail")
    assert r"\x1b[2J\x1b[31m" in seen
    assert "'the-one'" in seen
    terminal.shows(r"neon_echo_input +0 +2 +1 ")
    stage.services[0].command("dead", "--purge", "--yes")
    terminal.shows(r"neon_echo_input +0 +2 +0 ")


def test_a_process_that_is_gone_is_named(stage: Stage, terminal: Terminal) -> None:
    terminal.shows("2 of 2 processes answer")
    gone = stage.services[1]
    gone.stop()
    try:
        terminal.shows("1 of 2 processes answer")
        terminal.shows(rf"127\.0\.0\.1:{stage.ports[1]} +Connection refused")
        terminal.shows(r"neon_echo_input +0 +1 +0 ")
    finally:
        gone.launch()
        gone.wait_until_healthy()
    terminal.shows("2 of 2 processes answer")


def test_a_broker_that_is_gone_is_named_and_found_again(stage: Stage, terminal: Terminal) -> None:
    terminal.shows("2 of 2 processes answer")
    stage.broker.stop()
    try:
        seen = terminal.shows("no connection to|connection was lost")
        assert "2 of 2 processes answer" in seen
        terminal.shows(r"127\.0\.0\.1:\d+ +0\.1\.0 .* 0 of 1 ")
    finally:
        stage.broker.start()
    terminal.shows(r"neon_echo_input +0 +2 +0 ")


def test_a_narrow_terminal_shows_all_of_it_too(stage: Stage) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("no tmux on this machine: apt-get install tmux")
    shown = stage.terminal(*stage.words, width=80)
    try:
        seen = shown.shows("2 of 2 processes answer")
        assert f"127.0.0.1:{stage.ports[0]} " in seen
        assert re.search("neon_echo_input +0 +0 ", seen), seen
    finally:
        shown.close()


def test_where_nobody_looks_it_is_printed_once(stage: Stage) -> None:
    done = stage.services[0].command("top", *stage.words)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 processes answer" in done.stdout
    assert "neon_echo_input" in done.stdout
    assert "\x1b" not in done.stdout


def test_on_a_terminal_that_cannot_move_its_cursor_it_is_printed_once(stage: Stage) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-B", "-m", "neon_echo", "top", *stage.words]
    env = {**stage.services[0].environment, "TERM": "dumb"}
    try:
        done = subprocess.run(command, cwd=stage.project.path, env=env, stdout=theirs, timeout=120)
        assert "2 of 2 processes answer" in os.read(ours, 10_000).decode()
        assert done.returncode == 0
    finally:
        os.close(theirs)
        os.close(ours)


def test_by_itself_it_asks_this_machine_at_the_service_s_own_port(stage: Stage) -> None:
    done = stage.services[1].command("top", "--once")
    assert f"127.0.0.1:{stage.ports[1]}" in done.stdout
    assert "1 of 1 processes answer" in done.stdout


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_without_a_port_it_says_what_to_set(stage: Stage, tmp_path: Path) -> None:
    service = Service(stage.project, stage.broker.port, tmp_path)
    assert "MQ_METRICS_PORT" in one_line(service.command("top"))


def test_without_the_extra_one_line_names_it(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('No rich', name='rich')\n")
    path = f"{tmp_path}{os.pathsep}{stage.project.path / 'src'}"
    service = Service(stage.project, stage.broker.port, tmp_path, PYTHONPATH=path)
    assert "pip install --editable '.[top]'" in one_line(service.command("top"))


@pytest.mark.parametrize("where", ["x:y", ":1", "x:99999", ""])
def test_what_is_no_address_is_refused(stage: Stage, where: str) -> None:
    done = stage.services[0].command("top", "--at", where)
    assert done.returncode == 2
    assert "isn't a host" in done.stderr
