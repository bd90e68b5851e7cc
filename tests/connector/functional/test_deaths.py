"""A request that kills the process costs itself: not its neighbours, and not for long.

On each generation of brokers, for the ways in which a process or a worker is lost: it ends by itself, the
kernel kills it for its memory, or the callback never returns. And what looks like it and isn't: lost
connections and restarts of the broker.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brokers
import dotenv
import pika
import pytest
from baked import BakedProject
from conformance import generations
from mq_connector import Channel, payload
from waiting import eventually

from .broker import DEAD_LETTERS, PASSWORD, SERVICE, SERVICE_VHOST, USER, VHOST
from .conftest import Consume, Record, echo
from .peer import Peer
from .process import QUEUE, Service

pytestmark = pytest.mark.timeout(300)

#: Requests, and which of them is the culprit.
COUNT, CULPRIT = 150, 77
#: Deaths that it may cost, and times that a callback may hang.
DEATHS = ROUNDS = 4
#: Seconds until all have their answers; a service that is started again at once, and a broker that waits for
#: `TIMEOUT`, take a few.
BOUND = 60.0
#: Milliseconds that the broker waits for an acknowledgement from a queue called `input.….timed`.
TIMEOUT = 1500
TIMED = {
    "vhost": VHOST,
    "name": "timed",
    "pattern": r"^input\.[^.]+\.timed$",
    "apply-to": "queues",
    "priority": 9,
    "definition": {"dead-letter-exchange": DEAD_LETTERS},
}


#: The image of the generated service.
PYTHON = "python:3.13-slim"


class Generation:
    """A broker of one generation, with what the fixtures of this folder want of theirs."""

    def __init__(self, name: str, node: generations.Node) -> None:
        self.name = ".".join(generations.versions[name].split(".")[:2])
        self.port = node.port
        self.ctl = node.ctl

    def parameters(self, vhost: str = VHOST) -> pika.ConnectionParameters:
        """How to connect."""
        login = pika.PlainCredentials(USER, PASSWORD)
        return pika.ConnectionParameters("127.0.0.1", self.port, vhost, login)


@pytest.fixture(
    scope="module",
    params=[
        generations.INSTALLED,
        *(pytest.param(name, marks=pytest.mark.containers) for name in ("4.0", "4.3")),
    ],
)
def broker(request: pytest.FixtureRequest) -> Iterator[Generation]:
    """One of each generation, in the place of the broker that all share."""
    timed = dict(TIMED)
    if request.param == "4.3":  # which has it in a policy, and a timer for each message
        timed["definition"] = {**TIMED["definition"], "consumer-timeout": TIMEOUT}  # type: ignore[dict-item]
    with generations.running(request.param, [], [timed]) as node:
        if request.param != "4.3":  # one for all queues, looked at once a minute
            _set(node, consumer_timeout=TIMEOUT, channel_tick_interval=250)
        yield Generation(request.param, node)
        if request.param != "4.3":  # others are lent it
            _set(node, consumer_timeout=1_800_000, channel_tick_interval=60_000)


def _set(node: generations.Node, **milliseconds: int) -> None:
    settings = (f"application:set_env(rabbit, {name}, {ms})" for name, ms in milliseconds.items())
    node.ctl("eval", f"{', '.join(settings)}.")


@pytest.fixture
def service(project: BakedProject, tmp_path: Path, broker: Generation) -> Iterator[Service]:
    """A service that a request may kill."""
    edit(project, "import os; request.get('die') and os._exit(139)")
    made = Service(project, tmp_path, broker.port, PASSWORD)
    yield made
    made.end()


def edit(project: BakedProject, line: str) -> None:
    """Let the handler do this before it answers."""
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    answer = 'return {"echo": request}'
    assert answer in text
    file.write_text(text.replace(answer, f"{line}; {answer}"), encoding="utf-8")


@pytest.fixture
def asking(broker: Generation) -> Iterator[Peer]:
    peer = Peer(broker.parameters(SERVICE_VHOST))
    yield peer
    peer.close()


class Requests:
    """`COUNT` requests in a new quorum queue, one of them the culprit, and their answers."""

    def __init__(self, asking: Peer, queue: str, dead: str) -> None:
        self._asking, self._queue, self._dead = asking, queue, dead
        if asking.has(queue):
            asking.channel.queue_delete(queue)
        asking.declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        asking.channel.queue_purge(dead)
        self.answers: Counter[str] = Counter()
        self._replies = asking.declare("", exclusive=True)
        for number in range(COUNT):
            request = {"message_id": str(number), "routing_key": self._replies}
            asking.publish(queue, {**request, "die": number == CULPRIT})

    def wait(self, meanwhile: Callable[[], object] = lambda: None) -> float:
        """Take answers until each request has one, only the culprit's is an error, and it is dead-lettered.

        :param meanwhile: is called all the time
        :returns: seconds that it took
        """
        began = time.monotonic()
        coming = self._asking.channel.consume(self._replies, auto_ack=True, inactivity_timeout=0.01)
        while len(self.answers) < COUNT and time.monotonic() - began < BOUND:
            meanwhile()
            _, _, body = next(coming)
            if body is not None:
                reply = payload.decode(body)
                self.answers[reply["message_id"]] += 1
                culprits = reply["message_id"] == str(CULPRIT)
                assert reply.get("success", True) != culprits, reply
        self._asking.channel.cancel()
        took = time.monotonic() - began
        missing = {str(number) for number in range(COUNT)} - set(self.answers)
        left = [self._asking.count(each) for each in (self._queue, self._dead)]
        assert not missing, f"no answers to {missing}; in the queue and dead: {left}"
        self._asking.rests_at(self._dead, 1)
        self._asking.rests_at(self._queue, 0)
        self._asking.channel.queue_purge(self._dead)
        return took

    @property
    def ledger(self) -> dict[str, int]:
        """For the record."""
        again = self.answers.total() - COUNT
        counts = {"sent": COUNT, "confirmed": COUNT, "processed": COUNT, "duplicated": again}
        return {**counts, "lost": 0, "dead_letters": 1}


def test_a_request_that_kills_the_process_costs_itself_and_few_deaths(
    service: Service, asking: Peer, broker: Generation, record: Record
) -> None:
    """`os._exit(139)`, as a fault in a library that isn't Python's; started again at once."""
    requests = Requests(asking, QUEUE, f"{QUEUE}.dead")
    lives: list[subprocess.Popen[bytes]] = []

    def live() -> None:
        if not lives or lives[-1].poll() is not None:
            lives.append(service.start(healthy=False, MQ_QUEUE_TYPE="quorum"))

    took = round(requests.wait(live), 2)
    deaths = len(lives) - 1
    assert deaths <= DEATHS and "it isn't tried again" in service.said, service.said
    name = f"handler: kills the process, {broker.name}"
    record(name, bound=BOUND, recovery=took, times=deaths, **requests.ledger)


class Container:
    """The service in a container with little memory, started again by the engine whenever it ends.

    :param folder: has the service's configuration
    """

    def __init__(self, project: BakedProject, folder: Path) -> None:
        self.name = f"neon-test-{uuid.uuid4().hex[:8]}"
        mounts = {project.path / "src": "/src", folder: "/run/service"}
        for module in (pika, dotenv):
            assert module.__file__ is not None
            mounts[Path(module.__file__).parent] = f"/src-of-others/{module.__name__}"
        environment = {
            "HOME": "/tmp",
            "PYTHONPATH": "/src:/src-of-others",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NEON_MQ_CONFIG_PATH": "/run/service/config.json",
            "MQ_QUEUE_TYPE": "quorum",
        }
        words = [f"--volume={path}:{place}:ro" for path, place in mounts.items()]
        words += [f"--env={name}={value}" for name, value in environment.items()]
        # Without swap, or it would take long.
        words += ["--memory=128m", "--memory-swap=128m", "--network=host", "--restart=always"]
        # Followed from the start: the engine keeps the last 256 events of all its containers, and each look into
        # one of another test's is three.
        self._events = tempfile.TemporaryFile()  # noqa: SIM115
        form = ("--format", "{{.Action}} {{.Actor.Attributes.exitCode}}")
        since = ("--since", str(int(time.time())), "--filter", f"container={self.name}")
        self._follower = subprocess.Popen(["docker", "events", *since, *form], stdout=self._events)
        try:
            self._docker(
                "run", "--detach", "--name", self.name, *words, PYTHON, "python", "-m", SERVICE
            )
        except BaseException:
            self._end_following()
            raise

    def _docker(self, *words: str) -> str:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @property
    def deaths(self) -> int:
        """How often it was started again."""
        return int(self._docker("inspect", "--format", "{{.RestartCount}}", self.name))

    @property
    def said(self) -> str:
        return self._docker("logs", self.name)

    def kills(self) -> str:
        """What the engine knows of how it ended, each time; it says so a moment later."""
        return os.pread(self._events.fileno(), 2**20, 0).decode()

    def end(self) -> None:
        self._end_following()
        self._docker("rm", "--force", self.name)

    def _end_following(self) -> None:
        self._follower.kill()
        self._follower.wait()
        self._events.close()


@pytest.mark.containers
def test_a_request_that_takes_all_memory_costs_itself_and_few_deaths(
    project: BakedProject, tmp_path: Path, asking: Peer, broker: Generation, record: Record
) -> None:
    """The kernel kills the process (SIGKILL), the engine starts it again, after pauses that grow."""
    brokers.need_image(PYTHON)
    edit(project, "request.get('die') and len(b'x' * 1_000_000_000)")
    Service(project, tmp_path, broker.port, PASSWORD)  # which writes the configuration
    requests = Requests(asking, QUEUE, f"{QUEUE}.dead")
    running = Container(project, tmp_path)
    try:
        took = round(requests.wait(), 2)
        deaths = running.deaths
        assert deaths <= DEATHS and "it isn't tried again" in running.said, running.said
        eventually(
            lambda: (
                [running.kills().count(each) for each in ("oom", "die 137")] == [deaths, deaths]
            ),
            what=lambda: f"{deaths} deaths, and events: {running.kills()}",
            every=0.1,
        )
        named = "killed by the kernel for memory, of which it has 128 MiB"
        assert running.said.count(named) == deaths, running.said
    finally:
        running.end()
    name = f"handler: killed for memory, {broker.name}"
    record(name, bound=BOUND, recovery=took, times=deaths, **requests.ledger)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_request_that_hangs_costs_itself_and_few_rounds(
    peer: Peer,
    queue: str,
    broker: Generation,
    consume: Consume,
    workers: int,
    kind: str,
    record: Record,
) -> None:
    """Until the broker's `consumer_timeout`, each time."""
    queue = f"{queue}.timed"
    requests = Requests(peer, queue, peer.declare_dead(queue))
    release = threading.Event()
    rounds: list[bool] = []
    nudged = time.monotonic()

    def nudge() -> None:
        """In a queue in which nothing happens, 4.3 was seen to let the time pass."""
        nonlocal nudged
        if time.monotonic() > nudged + 0.5:
            peer.publish(queue, {"message_id": "nudge", "die": False})
            nudged = time.monotonic()

    def hang(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if payload.decode(body)["die"]:
            rounds.append(method.redelivered)
            release.wait(100)
        else:
            echo(channel, method, properties, body)

    async def hang_as_task(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if payload.decode(body)["die"]:
            rounds.append(method.redelivered)
            while not release.is_set():
                await asyncio.sleep(0.05)
        else:
            echo(channel, method, properties, body)

    handle = hang_as_task if kind == "async" else hang
    try:
        consumer = consume(handle, queue=queue, queue_type="quorum", workers=workers, prefetch=0)
        took = round(requests.wait(nudge), 2)
        assert len(rounds) <= ROUNDS
        eventually(lambda: consumer.is_consuming)
    finally:
        release.set()
    tasks = ", async" * (kind == "async")
    name = f"handler: hangs{tasks}, {workers} worker{'s' * (workers > 1)}, {broker.name}"
    record(name, bound=BOUND, recovery=took, times=len(rounds), **requests.ledger)
