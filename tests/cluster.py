"""The brokers of compose.cluster.yaml in containers, and a load with a ledger on the service between them."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import erlang
import pika
from connector.functional.peer import Peer
from mq_connector import payload
from pika.exceptions import AMQPError
from running import Service, free_port
from test_containers import Stack, docker
from waiting import eventually

#: The brokers, as the compose files call them; each node's host is called so, too.
NODES = ("rabbitmq", "rabbitmq-2", "rabbitmq-3")
#: Answered requests, of which there must be more, and seconds between two.
_ENOUGH, _PAUSE = 200, 0.01
#: How many requests wait when a broker goes, and seconds that each of them takes: longer than it takes to send one.
_WAITING, _WORK = 5, 0.2
#: What `rabbitmqctl list_queues` lists, in Erlang: each queue's leader is asked, as only that knows its messages
#: and consumers. In Base64, as that is printed as it is.
_QUEUES = """
About = [{about}],
Plain = fun({{name, Name}}) -> {{name, element(4, Name)}}; (Other) -> Other end,
Leader = fun({{_, Node}}) -> Node; (Process) -> node(Process) end,
Row = fun(Queue) ->
    case rpc:call(Leader(amqqueue:get_pid(Queue)), rabbit_amqqueue, info, [Queue, About]) of
        {{badrpc, _}} -> rabbit_amqqueue:info(Queue, About);
        Found -> Found
    end
end,
Rows = [maps:from_list(lists:map(Plain, Row(Queue))) || Queue <- rabbit_amqqueue:list({vhost})],
base64:encode_to_string(rabbit_json:encode(Rows)).
"""
#: How a connection finds out soon that a broker is gone.
_IMPATIENT: dict[str, Any] = {"heartbeat": 30, "socket_timeout": 2, "stack_timeout": 5}


@dataclass(frozen=True)
class Cluster(Stack):
    """A generated repository whose three brokers run, or some of them."""

    #: The port of this machine where each broker listens.
    ports: dict[str, int] = field(default_factory=lambda: {node: free_port() for node in NODES})

    def write_settings(self) -> None:
        """Put into .env where it listens, and what its image is called."""
        first, second, third = (self.ports[node] for node in NODES)
        with (self.project / ".env").open("a", encoding="utf-8") as env:
            env.write(f"\nMQ_PORT={first}\nMQ_PORT_2={second}\nMQ_PORT_3={third}\n")
            env.write(f"MQ_MANAGEMENT_PORT={free_port()}\nMQ_BROKER_METRICS_PORT={free_port()}\n")
            # Other tests build images of the same slug at the same time.
            env.write(f"IMAGE={self.name}\n")

    def have_requests_say_how_long_they_take(self) -> None:
        """Edit the handler; before the image is built."""
        path = self.project.package / "service.py"
        text = path.read_text(encoding="utf-8")
        changed = text.replace(
            "return {", "__import__('time').sleep(request.get('takes', 0)); return {", 1
        )
        assert changed != text
        path.write_text(changed, encoding="utf-8")

    def on(self, node: str, *words: str, timeout: float = 120) -> str:
        """Run a command in a broker's container; returns what it prints."""
        return self.compose("exec", "-T", node, *words, timeout=timeout).stdout

    def queues(self, node: str, *about: str) -> dict[str, list[str]]:
        """What a broker tells of each queue of the service's vhost, by the queue's name."""
        vhost = erlang.binary(self.project.answers["vhost"])
        done = subprocess.run(
            ["docker", "exec", "-i", f"{self.name}-{node}-1", "sh", "-c", erlang.CALL],
            input=_QUEUES.format(vhost=vhost, about=", ".join(("name", *about))),
            capture_output=True,
            text=True,
            timeout=120,
        )
        rows = json.loads(base64.b64decode(erlang.result(done.stdout or done.stderr)))
        return {row["name"]: [_told(row[each]) for each in about] for row in rows}

    def are_three(self) -> bool:
        """Whether each queue that is to survive has a member on each node."""
        rows = self.queues(NODES[0], "type", "members").values()
        return all(members.count("@") == 3 for kind, members in rows if kind == "quorum")

    def kill(self, node: str) -> None:
        """As a power cut would."""
        docker("kill", f"{self.name}-{node}-1")

    def bring_back(self, node: str) -> None:
        """Start it again; returns when every queue does without any one of the three."""
        self.compose("up", "--detach", "--wait", "--no-deps", node)
        self.on(node, "rabbitmq-upgrade", "await_online_quorum_plus_one", "-t", "120")

    def parameters(self, node: str) -> pika.ConnectionParameters:
        """How to log in at a broker as the service's own user."""
        port = self.ports[node]
        found = Service(self.project, port, self.project.path.parent / "home").parameters()
        for name, value in _IMPATIENT.items():
            setattr(found, name, value)
        return found


def _told(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


class Load:
    """Sends requests with confirms, one after the other, and notes the replies that come.

    What isn't confirmed is sent again, as a careful client does. Replies go to a queue that outlives a broker.

    :param nodes: whose connections it uses, the first that answers
    :param piles_up: whether some requests take long, so that others wait behind them all the time
    """

    def __init__(self, cluster: Cluster, nodes: Sequence[str], piles_up: bool = False) -> None:
        self.confirmed: list[str] = []
        #: Replies to each request.
        self.replies: Counter[str] = Counter()
        self._takes = 0.0
        self._piles_up = piles_up
        self._where = [cluster.parameters(node) for node in nodes]
        self._queue = cluster.project.answers["input_queue"]
        self._reply_queue = f"{cluster.project.answers['package_name']}.reply.{uuid.uuid4().hex}"
        self._over, self._reading_over = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._send, self._read)
        ]

    def __enter__(self) -> Load:
        peer = Peer(self._where)
        peer.declare(self._reply_queue, durable=True, arguments={"x-queue-type": "quorum"})
        peer.close()
        for each in self._threads:
            each.start()
        eventually(lambda: len(self.replies) > 10, 120, "some requests are answered")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            eventually(lambda: len(self.replies) > _ENOUGH, 120, "enough requests are answered")
        sender, reader = self._threads
        self._over.set()
        sender.join(60)
        if kind is None:
            eventually(lambda: not self.lost, 120, lambda: f"no reply to {len(self.lost)} requests")
        self._reading_over.set()
        reader.join(60)

    @property
    def lost(self) -> set[str]:
        """Confirmed and not answered."""
        return set(self.confirmed) - self.replies.keys()

    @property
    def figures(self) -> str:
        """The ledger, for people."""
        twice = sum(self.replies.values()) - len(self.replies)
        return f"{len(self.confirmed)} confirmed, {len(self.lost)} lost, {twice} answered once more"

    def pile_up(self) -> None:
        """Have requests wait behind the one that is handled: what is acknowledged too early goes with the link."""
        self._takes = _WORK
        eventually(lambda: len(self.lost) > _WAITING, what="requests wait")
        self._takes = 0.0

    def recovered_after(self, since: float) -> float:
        """Wait for the reply to a request that is sent from now on; returns seconds since then."""
        mark = len(self.confirmed) + 1  # one may be under way
        eventually(
            lambda: any(each in self.replies for each in self.confirmed[mark:]),
            60,
            lambda: f"no later request is answered: {self.figures}",
        )
        return time.monotonic() - since

    def caught_up_after(self, since: float) -> float:
        """Wait for the replies to all that is confirmed by now, what a service has in hand included; returns
        seconds since then."""
        sent = set(self.confirmed)
        eventually(
            lambda: sent <= self.replies.keys(),
            120,
            lambda: f"some requests of before wait: {self.figures}",
        )
        return time.monotonic() - since

    def _send(self) -> None:
        peer = Peer(self._where)
        while not self._over.wait(_PAUSE):
            name = uuid.uuid4().hex
            if self._piles_up:
                waiting = len(self.confirmed) - len(self.replies)
                self._takes = 0.0 if waiting > _WAITING else _WORK
            request = {
                "message_id": name,
                "routing_key": self._reply_queue,
                "takes": self._takes,
            }
            while not self._over.is_set():
                try:
                    peer.publish(self._queue, request, delivery_mode=2)
                except (AMQPError, OSError):
                    peer.reset()
                    time.sleep(0.05)
                else:
                    self.confirmed.append(name)
                    break
        peer.reset()

    def _read(self) -> None:
        peer = Peer(self._where)
        while not self._reading_over.is_set():
            try:
                for method, _, body in peer.channel.consume(
                    self._reply_queue, inactivity_timeout=0.2
                ):
                    if method is not None and body is not None:
                        self.replies[payload.decode(body)["message_id"]] += 1
                        peer.channel.basic_ack(method.delivery_tag or 0)
                    if self._reading_over.is_set():
                        break
            except (AMQPError, OSError):
                peer.reset()
                time.sleep(0.05)
