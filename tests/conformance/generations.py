"""The brokers that the suite runs on: the installed one, and later generations in containers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import brokers
import pika
import pytest
from baked import TREE
from connector.functional.broker import PASSWORD, USER, VHOST, Broker
from local import NoServer

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
    files = {
        "rabbitmq.conf": (TREE / "rabbitmq" / "rabbitmq.conf").read_text("utf-8") + settings,
        "definitions.json": json.dumps(definitions),
    }
    broker.close()
    with brokers.lent_container(image, files) as node:
        versions[name] = _version(node.port)
        yield node


def _version(port: int) -> str:
    """As the broker says it to whoever logs in."""
    where = pika.ConnectionParameters(
        "127.0.0.1", port, VHOST, pika.PlainCredentials(USER, PASSWORD)
    )
    with pika.BlockingConnection(where) as connection:
        wire: Any = connection
        return str(wire._impl.server_properties["version"])
