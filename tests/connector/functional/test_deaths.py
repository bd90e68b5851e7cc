"""A request that kills the process costs itself: not its neighbours, and not for long."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from baked import BakedProject
from mq_connector import payload

from .broker import PASSWORD, SERVICE_VHOST, Broker
from .conftest import Record
from .peer import Peer
from .test_process import QUEUE, Service

pytestmark = pytest.mark.timeout(120)

#: Requests, and which of them is the culprit.
COUNT, CULPRIT = 150, 77
#: Deaths that it may cost.
DEATHS = 4


@pytest.fixture
def service(project: BakedProject, tmp_path: Path, broker: Broker) -> Iterator[Service]:
    """A service that a request may kill."""
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    answer = 'return {"echo": request}'
    assert answer in text
    dies = f'import os; request.get("die") and os._exit(139); {answer}'
    file.write_text(text.replace(answer, dies), encoding="utf-8")
    made = Service(project, tmp_path, broker.port, PASSWORD)
    yield made
    made.end()


@pytest.fixture
def asking(broker: Broker) -> Iterator[Peer]:
    peer = Peer(broker.parameters(SERVICE_VHOST))
    yield peer
    peer.close()


def test_a_request_that_kills_the_process_costs_itself_and_few_deaths(
    service: Service, asking: Peer, record: Record
) -> None:
    options = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    if asking.has(QUEUE):
        asking.channel.queue_delete(QUEUE)
    asking.declare(QUEUE, **options)
    asking.channel.queue_purge(f"{QUEUE}.dead")
    replies = asking.declare("", exclusive=True)
    for number in range(COUNT):
        request = {"message_id": str(number), "routing_key": replies, "die": number == CULPRIT}
        asking.publish(QUEUE, payload.encode(request))
    began = time.monotonic()
    deaths = 0
    answers: Counter[str] = Counter()
    process: subprocess.Popen[bytes] | None = None
    while answers.total() < COUNT and time.monotonic() - began < 60:
        if process is None or process.poll() is not None:
            deaths += process is not None
            process = service.start(healthy=False, MQ_QUEUE_TYPE="quorum")
        method, _, body = asking.channel.basic_get(replies, auto_ack=True)
        if method is None or body is None:
            time.sleep(0.005)
            continue
        reply = payload.decode(body)
        answers[reply["message_id"]] += 1
        assert reply.get("success", True) == (reply["message_id"] != str(CULPRIT)), reply
    took = time.monotonic() - began
    assert set(answers) == {str(number) for number in range(COUNT)}, service.said
    assert deaths <= DEATHS, service.said
    assert "it isn't tried again" in service.said
    asking.rests_at(f"{QUEUE}.dead", 1)
    asking.channel.queue_purge(f"{QUEUE}.dead")
    record(
        "handler: kills the process",
        bound=60.0,
        recovery=round(took, 2),
        sent=COUNT,
        confirmed=COUNT,
        processed=COUNT,
        duplicated=answers.total() - COUNT,
        lost=0,
    )
