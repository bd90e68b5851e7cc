"""Brokers of several generations for one generated repository, with its own definitions."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import erlang
import pytest
from baked import TEMPLATE, BakedProject, load
from lending import LENDING
from local import free_port
from quick_start import QuickStart

#: Generations that containers bring beside the installed one: 4.0 tolerates legacy clients, 4.3 is
#: also able to deny them their transient queues.
IMAGES = ("rabbitmq:4.0-management", "rabbitmq:4.3-management")
#: Seconds until a broker in a container answers.
PATIENCE = 90
#: Attempts to start a container, each with another port.
_TRIES = 3
DEFINITIONS = "definitions.json"
_FILES = ("rabbitmq.conf", "enabled_plugins", DEFINITIONS)


@contextmanager
def installed_node(project: BakedProject, port: int = 0, **options: Any) -> Iterator[Any]:
    """The machine's own rabbitmq-server, through the repository's local.py; yields a LocalBroker.

    :param port: 0 takes a free one
    :param options: of LocalBroker
    """
    local = load("local", project / "rabbitmq" / "local.py")

    class Node(QuickStart, local.LocalBroker):  # type: ignore[misc,name-defined]
        pass

    try:
        broker = Node(port, **options)
    except local.NoServer as error:
        pytest.skip(str(error))
    with broker:
        yield broker


@contextmanager
def installed(project: BakedProject) -> Iterator[int]:
    """The same for those who only want its port: lent."""
    files = files_of(project)
    kind = ("installed", files["rabbitmq.conf"])
    with LENDING.lend(kind, files[DEFINITIONS], partial(installed_node, project)) as broker:
        yield broker.port


def need_image(image: str) -> None:
    """Have the engine pull an image, or make a stand-in where no registry is; skips where neither can be."""
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        pytest.skip("no Docker engine on this machine")
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0:
        return
    made = subprocess.run([TEMPLATE / ".ci" / "images", image], capture_output=True, text=True)
    if made.returncode:
        last = (made.stdout + made.stderr).strip().splitlines()[-1:]
        pytest.skip(f"the image {image} is neither here nor can it be had: {last}")


def marks(image: str) -> list[pytest.MarkDecorator]:
    """Of tests with a broker of this image: one process has them all, so that they are lent the same."""
    group = pytest.mark.xdist_group(f"lent {image}")
    return [pytest.mark.containers, pytest.mark.slow, group]


#: For a fixture's `params`: the installed broker, and each generation in a container; see `at`.
EVERYWHERE = ["installed", *(pytest.param(image, marks=marks(image)) for image in IMAGES)]


@contextmanager
def at(place: str, project: BakedProject) -> Iterator[int]:
    """The broker of one of these places; yields its port."""
    with installed(project) if place == "installed" else in_container(project, place) as port:
        yield port


class Container:
    """A broker in a container."""

    def __init__(self) -> None:
        self.port = free_port()
        self.name = f"neon-test-{uuid.uuid4().hex[:8]}"

    def evaluate(self, expression: str) -> str:
        """Evaluate an expression that gives a text, in Erlang, on the node."""
        words = ("exec", "--interactive", self.name, "sh", "-c", erlang.CALL)
        done = _docker(*words, check=False, text=expression)
        return erlang.result(done.stdout or done.stderr)

    def ctl(self, *arguments: str) -> str:
        """What rabbitmqctl prints; the usual commands are given without it."""
        if expression := erlang.at_once(arguments):
            with contextlib.suppress(AssertionError):
                return self.evaluate(erlang.script(expression))
        return _docker("exec", self.name, "rabbitmqctl", "--quiet", *arguments).stdout


@contextmanager
def in_container(project: BakedProject, image: str) -> Iterator[int]:
    """A broker in a container, with what the compose file has it read: lent; yields its port."""
    with lent_container(image, files_of(project)) as container:
        yield container.port


def files_of(project: BakedProject) -> dict[str, str]:
    """What a repository's broker reads, by its name in /etc/rabbitmq."""
    return {name: (project / "rabbitmq" / name).read_text(encoding="utf-8") for name in _FILES}


@contextmanager
def lent_container(image: str, files: Mapping[str, str]) -> Iterator[Container]:
    """A broker in a container: lent.

    :param files: which it reads at its start, by their names in /etc/rabbitmq
    """
    need_image(image)
    others = {name: text for name, text in files.items() if name != DEFINITIONS}
    kind = (image, *sorted(others.items()))
    with LENDING.lend(kind, files[DEFINITIONS], partial(own_container, image, files)) as container:
        yield container


@contextmanager
def own_container(image: str, files: Mapping[str, str]) -> Iterator[Container]:
    """The same for one test alone."""
    need_image(image)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # the broker's user has to get at them
        words = ["--ulimit", "nofile=16384"]
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
            words += ["-v", f"{folder}/{name}:/etc/rabbitmq/{name}:ro"]
        container = _started(*words, image)
        try:
            _wait_for_amqp(container.port)
            yield container
        finally:
            _docker("kill", container.name, check=False)


def _started(*words: str) -> Container:
    """A container with a port that was free, and that nobody has taken before the engine came to it."""
    for _ in range(_TRIES):
        container = Container()
        names = ("--name", container.name, "-p", f"127.0.0.1:{container.port}:5672")
        done = _docker("run", "--rm", "--detach", *names, *words, check=False)
        if not done.returncode:
            return container
        _docker("rm", "--force", container.name, check=False)
    raise AssertionError(done.stderr)


def _docker(*words: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *words],
        check=check,
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def _wait_for_amqp(port: int) -> None:
    """A published port accepts connections before the broker does; only the broker greets."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as connection:
                connection.settimeout(2)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                if connection.recv(1):
                    return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"no broker on port {port} after {PATIENCE} s"
        time.sleep(0.2)
