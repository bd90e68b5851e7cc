"""Brokers of several generations for one generated repository, with its own definitions."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from baked import TEMPLATE, BakedProject, load
from local import free_port
from quick_start import QuickStart

#: Generations that containers bring beside the installed one: 4.0 tolerates legacy clients, 4.3 is
#: also able to deny them their transient queues.
IMAGES = ("rabbitmq:4.0-management", "rabbitmq:4.3-management")
#: Seconds until a broker in a container answers.
PATIENCE = 90
_FILES = ("rabbitmq.conf", "enabled_plugins", "definitions.json")


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
def installed(project: BakedProject, port: int = 0) -> Iterator[int]:
    """The same, for those who only want its port."""
    with installed_node(project, port) as broker:
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


#: For a fixture's `params`: the installed broker, and each generation in a container; see `at`.
EVERYWHERE = [
    "installed",
    *(pytest.param(image, marks=[pytest.mark.containers, pytest.mark.slow]) for image in IMAGES),
]


@contextmanager
def at(place: str, project: BakedProject) -> Iterator[int]:
    """The broker of one of these places; yields its port."""
    with installed(project) if place == "installed" else in_container(project, place) as port:
        yield port


@contextmanager
def in_container(project: BakedProject, image: str) -> Iterator[int]:
    """A broker in a container of its own, set up as in the compose file; yields its port."""
    need_image(image)
    port = free_port()
    name = f"neon-test-{uuid.uuid4().hex[:8]}"
    mounts = [
        word
        for file in _FILES
        for word in ("-v", f"{project / 'rabbitmq' / file}:/etc/rabbitmq/{file}:ro")
    ]
    for parent in (project / "rabbitmq").parents:
        if parent.stat().st_uid == 0 and parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(parent.stat().st_mode | 0o011)  # the broker's user has to get at the files
    # It reads the definitions by their group, as the compose file has it.
    group = str((project / "rabbitmq" / "definitions.json").stat().st_gid)
    limits = ["--ulimit", "nofile=16384", "--user", "rabbitmq", "--group-add", group]
    publish = ["-p", f"127.0.0.1:{port}:5672"]
    subprocess.run(
        ["docker", "run", "--rm", "--detach", "--name", name, *limits, *publish, *mounts, image],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    try:
        _wait_for_amqp(port)
        yield port
    finally:
        subprocess.run(["docker", "kill", name], capture_output=True, timeout=PATIENCE)


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
