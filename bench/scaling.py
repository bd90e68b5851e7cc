"""python -m bench.scaling [--rounds 3] [--nodes 1] [--out FILE]

What replicas of the service and nodes of the broker give: the generated repository in its own containers, by its own
compose files. Run by hand, for it takes a container engine and an otherwise idle machine; the figures are for
docs/scaling.md in the generated repository. Prints a row for each measurement as it comes, and at last the medians.

Beside requests a second, which are the machine's as much as ours, it takes the processor time that the containers of
broker and service have used for a request, as the kernel accounts for it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from . import service
from .service import PACKAGE, QUEUE, VHOST
from .wire import Address, Client

#: The compose project, and the image of the service.
NAME = "neon-echo-bench"
NODES = ("rabbitmq", "rabbitmq-2", "rabbitmq-3")
FILES = {1: ("compose.yaml",), 3: ("compose.yaml", "compose.cluster.yaml")}
REPLICAS = (1, 2, 4)
#: By the seconds that a handler waits for something else: requests, for each replica.
WORK = {0.0: 20_000, 0.02: 250}
#: Settings of the containers: ports that hardly anybody has.
PORTS = {
    "MQ_PORT": 27672,
    "MQ_PORT_2": 27673,
    "MQ_PORT_3": 27674,
    "MQ_MANAGEMENT_PORT": 27675,
    "MQ_BROKER_METRICS_PORT": 27676,
}
#: Where the kernel says how much a container has used: of cgroup's second version, and of its first.
_USED = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpuacct/cpuacct.usage"
#: Seconds until consumers are there, or all replies.
PATIENCE = 300.0


class Stack:
    """Brokers and service in containers.

    :param project: the generated repository
    :param nodes: how many brokers
    """

    def __init__(self, project: Path, nodes: int) -> None:
        self._project = project
        self._nodes = nodes
        user = json.loads((project / "mq_config.json").read_text())["users"][PACKAGE]
        self.address = Address(PORTS["MQ_PORT"], VHOST, user["username"], user["password"])

    def compose(self, *words: str) -> str:
        """Give an order to docker compose."""
        files = [word for name in FILES[self._nodes] for word in ("--file", name)]
        settings = {name: str(value) for name, value in PORTS.items()}
        done = subprocess.run(
            ["docker", "compose", "--project-name", NAME, *files, *words],
            cwd=self._project,
            env={**os.environ, **settings, "MQ_QUEUE_TYPE": "quorum", "IMAGE": NAME},
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            raise RuntimeError(f"docker compose {' '.join(words)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def __enter__(self) -> Stack:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.compose("up", "--build", "--detach", "--wait")
        if self._nodes == 3:
            # The service's queue and that of its dead letters get their members on all before long.
            words = ("exec", "-T", NODES[0], "rabbitmqctl", "-q", "list_queues", "-p", VHOST)
            while self.compose(*words, "members").count("@") < 6:
                time.sleep(1)

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--volumes")
        subprocess.run(["docker", "image", "rm", "--force", f"{NAME}:latest"], capture_output=True)

    def scale(self, replicas: int) -> None:
        """Have that many replicas of the service, each with a consumer."""
        self.compose(
            "up", "--detach", "--wait", "--no-deps", "--scale", f"service={replicas}", "service"
        )
        with Client(self.address) as client:
            deadline = time.monotonic() + PATIENCE
            while client.declare(QUEUE, passive=True)[1] != replicas:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not {replicas} consumers after {PATIENCE:.0f} s")
                time.sleep(0.2)

    def used(self, name: str, count: int) -> float:
        """Seconds of processor time that the containers of a service have used so far."""
        seconds = 0.0
        for index in range(1, count + 1):
            said = self.compose("exec", "-T", "--index", str(index), name, "sh", "-c", _USED)
            found = re.search(r"usage_usec (\d+)", said)
            seconds += int(found[1]) / 1e6 if found else int(said) / 1e9
        return seconds


def bodies(count: int, reply_queue: str, wait: float) -> Iterator[bytes]:
    """That many requests, persistent ones, as Neon's clients write them."""
    for number in range(count):
        request = {
            "text": "What time is it in Seattle?",
            "wait": wait,
            "routing_key": reply_queue,
            "message_id": f"{number:032x}",
        }
        yield base64.b64encode(json.dumps(str(request)).encode())


def measure(stack: Stack, nodes: int, replicas: int, wait: float) -> dict[str, float]:
    """Send requests until all are there, take all replies."""
    count = WORK[wait] * (replicas if wait else 1)
    names = NODES[:nodes]
    reply_queue = f"{PACKAGE}.reply.{secrets.token_hex(16)}"
    with Client(stack.address) as sender, Client(stack.address) as reader:
        sender.declare(reply_queue)
        reader.consume(reply_queue)
        made = list(bodies(count, reply_queue, wait))
        broker = sum(stack.used(name, 1) for name in names)
        ours = stack.used("service", replicas)
        began = time.monotonic()
        frames = sender.publisher(QUEUE, persistent=True)
        for start in range(0, count, 500):
            sender.send(b"".join(map(frames, made[start : start + 500])))
        if reader.count_replies(count, began + PATIENCE) < count:
            raise TimeoutError(f"{count - reader.replies} requests without a reply")
        took = time.monotonic() - began
        broker = sum(stack.used(name, 1) for name in names) - broker
        ours = stack.used("service", replicas) - ours
        sender.delete(reply_queue)
    return {
        "rate": count / took,
        "broker_us": broker / count * 1e6,
        "service_us": ours / count * 1e6,
    }


@contextmanager
def rendered() -> Iterator[Path]:
    """The generated repository, whose handler waits as long as the request says."""
    # The brokers' user has to get at its files.
    with tempfile.TemporaryDirectory(prefix="neon-mq-scaling-") as folder:
        Path(folder).chmod(0o711)
        project = service.render(Path(folder) / "made")
        file = project / "src" / PACKAGE / "service.py"
        text = file.read_text(encoding="utf-8")
        answer = '        return {"echo": request}\n'
        if text.count(answer) != 1:
            raise RuntimeError(f"{file} is no longer as it is known here")
        waits = (
            '        if request["wait"]:\n            __import__("time").sleep(request["wait"])\n'
        )
        file.write_text(text.replace(answer, waits + answer), encoding="utf-8")
        yield project


def table(found: Mapping[tuple[float, int, int], Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """The medians, as a table of the page."""
    yield "| the handler waits | nodes | replicas | requests/s | broker CPU µs | service CPU µs |"
    yield "|---|---|---|---|---|---|"
    for (wait, nodes, replicas), rows in sorted(found.items()):
        rate, broker, ours = (
            median(row[key] for row in rows) for key in ("rate", "broker_us", "service_us")
        )
        yield f"| {wait * 1000:.0f} ms | {nodes} | {replicas} | {rate:.0f} | {broker:.0f} | {ours:.0f} |"


def main() -> int:
    """Measure all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are taken")
    parser.add_argument("--out", type=Path, help="file for the raw rows, as JSON a line")
    parser.add_argument("--nodes", type=int, choices=FILES, help="only with that many")
    chosen = parser.parse_args()
    found: dict[tuple[float, int, int], list[dict[str, float]]] = {}
    print(f"load of this machine before: {os.getloadavg()[0]:.1f}", flush=True)
    with rendered() as project:
        for nodes in [chosen.nodes] if chosen.nodes else FILES:
            with Stack(project, nodes) as stack:
                for number in range(chosen.rounds):
                    for replicas in REPLICAS:
                        stack.scale(replicas)
                        for wait in WORK:
                            row = measure(stack, nodes, replicas, wait)
                            row["load"] = os.getloadavg()[0]
                            found.setdefault((wait, nodes, replicas), []).append(row)
                            said = {
                                "wait": wait,
                                "nodes": nodes,
                                "replicas": replicas,
                                "round": number,
                                **row,
                            }
                            print(json.dumps(said), flush=True)
                            if chosen.out:
                                with chosen.out.open("a", encoding="utf-8") as file:
                                    file.write(json.dumps(said) + "\n")
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
