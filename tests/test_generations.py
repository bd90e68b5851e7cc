"""Each kind of input queue on each generation of broker, with each kind of client.

The rendered service and its clients have the rights that `provision.py --client-user` gives them.
What a combination gives is noted for docs/compatibility.md, also where it can't work.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import brokers
import pika
import pytest
import results
from baked import TEMPLATE, BakedProject, bake_into
from conformance.generations import DENYING, IN_CONTAINERS, INSTALLED, installed_version
from mq_connector import payload
from pika.exceptions import AMQPError
from running import Service, running

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]

#: Git-ignored; a broker's rows are made anew by each complete run on it. `scripts/compatibility.py` reads it.
RESULTS = TEMPLATE / ".cache" / "generations.json"
#: By name: the image, and what its configuration has beside the template's.
BROKERS = {INSTALLED: ("", ""), **IN_CONTAINERS}
KINDS = ("auto", "quorum", "legacy")
#: Seconds for which a client waits for its reply.
_PATIENCE = 60.0

PUBLIC = "the public client: transient reply queue, declares the input queue"
REDECLARING = "exclusive reply queue, declares the input queue as transient"
EXCLUSIVE = "exclusive reply queue, declares nothing else"
SURVIVES = "the consumer outlives what a handler declares"
WHAT = (PUBLIC, REDECLARING, EXCLUSIVE, SURVIVES)

#: Put into the handler: what a channel doesn't survive, and on 4.3 the connection neither.
HOSTILE = """
        if "misbehave" in request.data:
            import contextlib
            for options in (
                {"queue": INPUT_QUEUE, "durable": True, "arguments": {"x-max-length": 7}},
                {"queue": INPUT_QUEUE, "auto_delete": True},
                {"queue": "somebody_elses"},
                {"queue": "missing", "passive": True},
                {"queue": request.reply_queue},
                {"queue": "<package>.reply.ab"},  # ours to declare, and transient: 541 on 4.3
            ):
                with contextlib.suppress(Exception):
                    channel.queue_declare(**options)
            with contextlib.suppress(Exception):
                channel.exchange_declare("somebody_elses", "fanout")
            with contextlib.suppress(Exception):
                channel.basic_ack(4711)
"""


def why_not(broker: str, kind: str, what: str) -> str:
    """Why this can't work, whoever the service is; empty where it has to."""
    if broker == DENYING and kind == "legacy":
        return "the broker denies the service its transient queue (541)"
    if broker == DENYING and what == PUBLIC:
        return "the broker denies the client its transient reply queue (541)"
    on_3 = broker == INSTALLED and installed_version().startswith("3.")
    if on_3 and kind == "quorum" and what in (PUBLIC, REDECLARING):
        return "the broker refuses the client's other declaration of the queue (406)"
    return ""


class Found:
    """A service of one kind on one broker, or why it doesn't start."""

    def __init__(self, broker: str, kind: str, service: Service, started: bool) -> None:
        self.broker, self.kind, self.service, self.started = broker, kind, service, started

    def channel(self) -> Any:
        """Of Neon's clients' user."""
        user = json.loads(self.service.project.read("mq_config.json"))["users"]["mq_handler"]
        credentials = pika.PlainCredentials(user["username"], user["password"])
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                "127.0.0.1", self.service.port, self.service.project.answers["vhost"], credentials
            )
        ).channel()

    def works(self, what: str, request: dict[str, Any]) -> bool:
        """Whether a client of this sort is answered."""
        if not self.started:
            return False
        if what == PUBLIC:
            [reply] = self.service.ask_as_neon(request)
            return reply.get("echo") == request
        try:
            return self._ask(request, redeclares=what == REDECLARING).get("echo") == request
        except AMQPError:
            return False

    def survives(self) -> bool:
        """Whether it still answers, and says so, after its handler has misbehaved.

        On the same channel: one that comes back after a loss would answer, too.
        """
        requests: tuple[dict[str, Any], ...] = ({"misbehave": 1}, {"well": 1})
        answered = all(self.works(EXCLUSIVE, request) for request in requests)
        log = self.service.log.read_text(encoding="utf-8")
        lost = [words for words in ("connecting again", "closed the channel") if words in log]
        return answered and not lost and self.service.command("health").returncode == 0

    def _ask(self, request: dict[str, Any], redeclares: bool) -> dict[Any, Any]:
        queue = self.service.project.answers["input_queue"]
        channel = self.channel()
        try:
            replies = uuid.uuid4().hex
            channel.queue_declare(replies, exclusive=True)
            if redeclares:
                channel.queue_declare(queue)
            message = {**request, "message_id": uuid.uuid4().hex, "routing_key": replies}
            channel.basic_publish("", queue, payload.encode(message))
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline:
                _, _, body = channel.basic_get(replies, auto_ack=True)
                if body is not None:
                    return payload.decode(body)
                time.sleep(0.02)
            return {}
        finally:
            if channel.connection.is_open:
                channel.connection.close()


@contextmanager
def at(name: str, project: BakedProject) -> Iterator[int]:
    """A broker of one generation with the repository's definitions; yields its port."""
    image, settings = BROKERS[name]
    if not image:
        with brokers.installed(project) as port:
            yield port
        return
    configuration = project / "rabbitmq" / "rabbitmq.conf"
    as_rendered = configuration.read_text(encoding="utf-8")
    configuration.write_text(as_rendered + settings, encoding="utf-8")
    try:
        with brokers.in_container(project, image) as port:
            yield port
    finally:
        configuration.write_text(as_rendered, encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    made = bake_into(tmp_path_factory.mktemp("generations"))
    made.run("python", "rabbitmq/provision.py", "--client-user")
    service = made.package / "service.py"
    text = service.read_text(encoding="utf-8")
    anchor = "        return respond(channel, request, self.answer)\n"
    assert text.count(anchor) == 1
    hostile = HOSTILE.replace("<package>", made.answers["package_name"])
    service.write_text(text.replace(anchor, hostile + anchor), encoding="utf-8")
    return made


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            name,
            marks=[
                # One broker for all kinds of queue.
                pytest.mark.xdist_group(f"generations-{name}"),
                *([pytest.mark.containers, pytest.mark.slow] if image else []),
            ],
        )
        for name, (image, _) in BROKERS.items()
    ],
)
def broker(request: pytest.FixtureRequest, project: BakedProject) -> Iterator[tuple[str, int]]:
    with at(request.param, project) as port:
        yield request.param, port


@pytest.fixture(scope="module", params=KINDS)
def found(
    request: pytest.FixtureRequest,
    project: BakedProject,
    broker: tuple[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Found]:
    name, port = broker
    home: Path = tmp_path_factory.mktemp("home")
    if why_not(name, request.param, EXCLUSIVE):
        service = Service(project, port, home, MQ_QUEUE_TYPE=request.param)
        service.launch()
        try:
            yield Found(name, request.param, service, started=False)
        finally:
            service.kill()
        return
    with running(project, port, home, MQ_QUEUE_TYPE=request.param) as service:
        yield Found(name, request.param, service, started=True)
        service.stop()
        # The next kind of queue begins anew.
        user = json.loads(project.read("mq_config.json"))["users"]["neon_echo"]
        credentials = pika.PlainCredentials(user["username"], user["password"])
        parameters = pika.ConnectionParameters("127.0.0.1", port, "/neon_echo", credentials)
        with pika.BlockingConnection(parameters) as connection:
            connection.channel().queue_delete(project.answers["input_queue"])


@pytest.fixture(scope="module")
def book() -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    yield rows
    complete = {
        name
        for name in BROKERS
        if sum(row["broker"] == name for row in rows) == len(KINDS) * len(WHAT)
    }

    def merge(known: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [row for row in known if row["broker"] not in complete]
        new = [row for row in rows if row["broker"] in complete]
        return sorted([*kept, *new], key=lambda row: list(BROKERS).index(row["broker"]))

    if complete:
        results.update(RESULTS, merge, [])


@pytest.mark.parametrize("what", WHAT)
def test_a_client_is_answered_wherever_the_broker_allows_it(
    found: Found, book: list[dict[str, Any]], what: str
) -> None:
    reason = why_not(found.broker, found.kind, what)
    if what == SURVIVES:
        result = found.survives()
    else:
        result = all(found.works(what, {"number": number}) for number in range(3))
    row = {"broker": found.broker, "kind": found.kind, "what": what}
    book.append({**row, "works": result, "why_not": reason})
    log = found.service.log.read_text(encoding="utf-8")
    assert result == (not reason), f"expected: {reason or 'an answer'}\n{log}"


def test_a_service_that_is_denied_its_queue_says_why_and_is_not_healthy(found: Found) -> None:
    if found.started:
        assert found.service.command("health").returncode == 0
        return
    assert found.service.process is not None
    assert found.service.process.wait(_PATIENCE) != 0
    assert found.service.command("health").returncode != 0
    log = found.service.log.read_text(encoding="utf-8")
    assert "can't start: queue 'neon_echo_input'" in log and "transient_nonexcl_queues" in log
