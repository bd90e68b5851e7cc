"""Three RabbitMQ nodes of this machine's one installation, as a cluster of their own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pika
from local import BrokerError, free_port

from .broker import VHOST, Broker

#: Where a quorum queue's leader lives, in Erlang; an empty text where the last one known has died.
_LEADER = """
{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)),
{{Name, Node}} = amqqueue:get_pid(Queue),
case rpc:call(Node, erlang, whereis, [Name]) of
    Process when is_pid(Process) -> atom_to_list(Node);
    _ -> ""
end.
"""
#: The running members of a node's cluster, as this or a newer generation says it.
_RUNNING = """
case erlang:function_exported(rabbit_nodes, list_running, 0) of
    true -> rabbit_nodes:list_running();
    false -> rabbit_mnesia:cluster_nodes(running)
end.
"""


class Node(Broker):
    """A node with a name of its own, that finds the others.

    :param name: before the @
    :param home: folder that all nodes share, for the cookie by which they know each other
    :param epmd_port: of the name server that all nodes share
    :param joins: name of a node whose cluster it becomes a member of; that one runs already
    """

    def __init__(self, name: str, home: Path, epmd_port: int, joins: str = "") -> None:
        super().__init__()
        self.name = f"{name}@localhost"
        self._home = home
        self._joins = joins
        self._epmd_port = epmd_port

    def _prepare(self) -> None:
        super()._prepare()
        if self._joins:
            # Whose cluster it becomes a member of when it first starts.
            with (self.data / "rabbitmq.conf").open("a", encoding="utf-8") as file:
                file.write("cluster_formation.peer_discovery_backend = classic_config\n")
                file.write(f"cluster_formation.classic_config.nodes.1 = {self._joins}@localhost\n")
        arguments = self._environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]
        self._environment |= {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self.name,
            # One scheduler each, which doesn't spin: three nodes share the machine with the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": re.sub(
                r"-sname \S+", f"-sname {self.name} +S 1:1 +sbwt none", arguments
            ),
        }


class Cluster:
    """Three nodes; as a context manager, running inside the block."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="cluster-")
        self._epmd_port = free_port()
        home = Path(self._home.name)
        self.nodes = [
            Node(f"node{number}", home, self._epmd_port, "node1" if number > 1 else "")
            for number in (1, 2, 3)
        ]
        self._epmd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Cluster:
        try:
            # The nodes' own would end with the first of them.
            self._epmd = subprocess.Popen(
                [self.nodes[0].installation.epmd],
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "ERL_EPMD_PORT": str(self._epmd_port),
                    "ERL_EPMD_ADDRESS": "127.0.0.1",
                },
            )
            first, *others = self.nodes
            first.start()  # makes the cookie
            starts = [threading.Thread(target=node.start) for node in others]
            for start in starts:
                start.start()
            for start in starts:
                start.join()
            assert self._members() == {node.name for node in self.nodes}
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all nodes and remove their data."""
        for node in self.nodes:
            with contextlib.suppress(BrokerError):
                node.kill()
            node.close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        self._home.cleanup()

    def parameters(self, **options: Any) -> list[pika.ConnectionParameters]:
        """How to connect to the first node that answers, beginning with the last."""
        return [node.parameters(**options) for node in reversed(self.nodes)]

    def _members(self) -> set[str]:
        """Names of the nodes that the first one knows to be running."""
        names = self.nodes[0].ctl("eval", _RUNNING)
        return set(re.findall(r"\w+@\w+", names))

    def leader(self, queue: str, among: list[Node] | None = None) -> Node:
        """The node that leads a quorum queue.

        :param among: whom to ask; by default everybody
        """
        asked = (among or self.nodes)[0]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            name = asked.evaluate(_LEADER.format(vhost=VHOST, queue=queue))
            found = [node for node in self.nodes if node.name == name]
            if found:
                return found[0]
            time.sleep(0.1)
        raise AssertionError(f"{queue!r} has no leader, but {name!r}")
