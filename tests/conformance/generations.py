"""The brokers that the suite runs on: the installed one, and later generations in containers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import brokers
import erlang
import pika
import pytest
from baked import TREE
from connector.functional.broker import PASSWORD, USER, VHOST, Broker
from local import NoServer, free_port

#: Denies Neon's clients their transient queues, which 4.3 can.
_DENY = "deprecated_features.permit.transient_nonexcl_queues = false\n"
DENYING = "4.3, transient queues denied"
#: By name: the image, and what its configuration has beside the template's.
IN_CONTAINERS = {
    "4.0": ("rabbitmq:4.0-management", ""),
    "4.3": ("rabbitmq:4.3-management", ""),
    DENYING: ("rabbitmq:4.3-management", _DENY),
}
INSTALLED = "installed"
#: The exact version of each broker that has been run, by name.
versions: dict[str, str] = {}


class Node(Protocol):
    """A running broker."""

    port: int

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl."""


def installed_version() -> str:
    """Of the broker that is installed on this machine; empty where there is none."""
    try:
        broker = Broker()
    except NoServer:
        return ""
    broker.close()
    return broker.installation.version


@contextmanager
def running(
    name: str, vhosts: list[str], policies: Sequence[dict[str, Any]] = ()
) -> Iterator[Node]:
    """A broker of one generation with these vhosts; skips the test where it can't run.

    :param policies: further ones, as definitions have them
    """
    try:
        broker = Broker()
    except NoServer as error:
        pytest.skip(str(error))
    # Before it starts, as that is quicker than its command line.
    definitions = json.loads(broker.definitions.read_text(encoding="utf-8"))
    rights = {"user": USER, "configure": ".*", "write": ".*", "read": ".*"}
    definitions["vhosts"] += [{"name": vhost} for vhost in vhosts]
    definitions["permissions"] += [{"vhost": vhost, **rights} for vhost in vhosts]
    definitions["policies"] += policies
    broker.definitions.write_text(json.dumps(definitions), encoding="utf-8")
    if name == INSTALLED:
        versions[name] = broker.installation.version
        with broker:
            yield broker
        return
    image, settings = IN_CONTAINERS[name]
    try:
        with _container(image, settings, definitions) as node:
            versions[name] = _version(node.port)
            yield node
    finally:
        broker.close()


@contextmanager
def _container(image: str, settings: str, definitions: object) -> Iterator[Node]:
    brokers.need_image(image)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        conf = (TREE / "rabbitmq" / "rabbitmq.conf").read_text(encoding="utf-8") + settings
        files = {"rabbitmq.conf": conf, "definitions.json": json.dumps(definitions)}
        mounts = []
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
            mounts += ["-v", f"{folder}/{name}:/etc/rabbitmq/{name}:ro"]
        node = _Container(free_port())
        publish = ["-p", f"127.0.0.1:{node.port}:5672", "--ulimit", "nofile=16384"]
        _docker("run", "--rm", "--detach", "--name", node.name, *publish, *mounts, image)
        try:
            brokers._wait_for_amqp(node.port)
            yield node
        finally:
            _docker("kill", node.name, check=False)


class _Container:
    def __init__(self, port: int) -> None:
        self.port = port
        self.name = f"neon-test-{uuid.uuid4().hex[:8]}"

    def ctl(self, *arguments: str) -> str:
        if expression := erlang.at_once(arguments):
            words = ("exec", "--interactive", self.name, "sh", "-c", erlang.CALL)
            done = _docker(*words, check=False, text=erlang.script(expression))
            with contextlib.suppress(AssertionError):
                return erlang.result(done.stdout)
        return _docker("exec", self.name, "rabbitmqctl", "--quiet", *arguments).stdout


def _version(port: int) -> str:
    """As the broker says it to whoever logs in."""
    where = pika.ConnectionParameters(
        "127.0.0.1", port, VHOST, pika.PlainCredentials(USER, PASSWORD)
    )
    with pika.BlockingConnection(where) as connection:
        wire: Any = connection
        return str(wire._impl.server_properties["version"])


def _docker(*words: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *words],
        check=check,
        input=text,
        capture_output=True,
        text=True,
        timeout=brokers.PATIENCE,
    )
