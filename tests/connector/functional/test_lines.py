"""What the log says of one message: by its id, in one line each, which nobody outside can forge."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pika
import pytest
from baked import BakedProject
from mq_connector import Client, RetryMessage, payload
from mq_connector.connection import Connection
from mq_connector.connection.address import Address
from mq_connector.errors import RequestTimeout
from waiting import eventually

from .broker import PASSWORD, Broker
from .conftest import Consume
from .peer import Peer
from .process import QUEUE, Service
from .test_deaths import edit

pytestmark = pytest.mark.timeout(300)

TRACE = f"00-{'0af7651916cd43dd8448eb211c80319c'}-{'b7ad6b7169203331'}-01"
#: What would be a line of its own, in red, and then a terminal's title.
FORGED = "x\n2026-01-01T00:00:00.000+00:00 ERROR    forged\r\x1b[31m\x1b]0;title\x07\u202e\x85"
TROUBLE = """
from .mq_connector import RetryMessage

tried = set()


def fail(request):
    raise ValueError(request["text"])


def retry(request):
    if request["text"] not in tried:
        tried.add(request["text"])
        raise RetryMessage(0.05)


def nothing(request):
    pass
"""


@pytest.fixture
def service(project: BakedProject, tmp_path: Path, broker: Broker) -> Iterator[Service]:
    """A service whose handler does what a request asks for, by the key ``do``."""
    (project.package / "trouble.py").write_text(TROUBLE, encoding="utf-8")
    edit(project, "from . import trouble; getattr(trouble, request.get('do', 'nothing'))(request)")
    made = Service(project, tmp_path, broker.port, PASSWORD)
    yield made
    made.end()


def lines_of(service: Service, outcome: str) -> list[dict[str, Any]]:
    """The lines of a log in JSON that tell of such an outcome, but for one that isn't finished yet."""
    lines = [json.loads(each) for each in service.said.splitlines(True) if each.endswith("\n")]
    return [each for each in lines if each.get("outcome") == outcome]


def test_each_request_is_one_object_with_its_id_duration_and_outcome(
    service: Service, asking: Peer
) -> None:
    service.start(LOG_LEVEL="DEBUG", LOG_FORMAT="json")
    assert "echo" in asking.ask(QUEUE, message_id="good")
    assert asking.ask(QUEUE, message_id="bad", do="fail", text=FORGED)["success"] is False
    assert "echo" in asking.ask(QUEUE, message_id="again", do="retry", text="once")
    eventually(lambda: len(lines_of(service, "handled")) == 2)
    good, again = lines_of(service, "handled")
    assert (good["message_id"], good["queue"], good["level"]) == ("good", QUEUE, "DEBUG")
    assert again["message_id"] == "again"
    assert 0 < good["duration"] < 10
    assert datetime.fromisoformat(good["time"]).tzinfo is not None
    (retried,) = lines_of(service, "retried")
    assert (retried["message_id"], retried["pause"]) == ("again", 0.05)
    failed, done = lines_of(service, "dead-lettered")
    assert (failed["message_id"], failed["exception"]) == ("bad", "ValueError")
    assert "ValueError: x\n2026" in failed["traceback"]
    assert (done["message_id"], done["level"]) == ("bad", "DEBUG")
    assert service.said.isascii()
    assert all(each.isprintable() for each in service.said.splitlines())


def test_no_text_from_outside_looks_like_a_line_or_reaches_a_terminal(
    service: Service, asking: Peer
) -> None:
    service.start(LOG_LEVEL="DEBUG")
    assert asking.ask(QUEUE, message_id=FORGED, do="fail", text=FORGED)["success"] is False
    asking.publish(QUEUE, {"message_id": "1", "routing_key": FORGED})
    assert "echo" in asking.ask(QUEUE)
    lines = service.said.split("\n")
    assert all(each.isprintable() for each in lines)
    head = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d [A-Z]+ ")
    assert all(head.match(each) or each.startswith("    ") for each in lines if each)
    assert not [each for each in lines if head.match(each) and each.endswith("forged")]
    assert "is dead-lettered: ValueError: x\\n2026" in service.said
    assert "message '1': nobody will be answered" in service.said


def test_a_trace_comes_back_with_the_reply_and_stands_in_the_log(
    service: Service, asking: Peer
) -> None:
    service.start(LOG_LEVEL="DEBUG", LOG_FORMAT="json")
    headers = {"traceparent": TRACE, "tracestate": "a=1", "other": "x"}
    for do, text in (("nothing", ""), ("fail", "no")):
        where = asking.declare("")
        request = {"message_id": do, "routing_key": where, "do": do, "text": text}
        asking.publish(QUEUE, request, headers=headers)
        properties, _ = asking.take(where)
        assert properties.headers == {"traceparent": TRACE, "tracestate": "a=1"}
    where = asking.declare("")
    request = {"message_id": "wrong", "routing_key": where}
    asking.publish(QUEUE, request, headers={"traceparent": f"{TRACE}\x1b[31m"})
    assert asking.take(where)[0].headers is None
    eventually(lambda: len(lines_of(service, "handled")) == 2)
    assert [each.get("traceparent") for each in lines_of(service, "handled")] == [TRACE, None]
    assert all(each["traceparent"] == TRACE for each in lines_of(service, "dead-lettered"))


def test_a_dead_letter_names_the_service_s_version_and_is_found_by_the_command(
    service: Service, asking: Peer
) -> None:
    where = f"{QUEUE}.dead"
    if asking.has(where):
        asking.channel.queue_purge(where)
    service.start()
    for name in ("one", "two"):
        assert asking.ask(QUEUE, message_id=name, do="fail", text=name)["success"] is False
    asking.rests_at(where, 2)
    done = service.command(
        "dead", "--json", "--id", "two", "--since", "1h", "--reason", "ValueError"
    )
    assert done.returncode == 0, done.stderr
    (letter,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (letter["id"], letter["exception"]) == ("two", "ValueError: two")
    assert (letter["version"], letter["deliveries"]) == ("0.1.0", 1)
    found = service.command("dead", "--id", "two", "--id", "three\x1b[31m")
    assert (found.returncode, found.stdout.count("ValueError: two")) == (1, 1)
    [line] = found.stderr.splitlines()
    assert line == "no dead letter that is meant has the message_id 'three\\x1b[31m'"
    some = service.command("dead", "--id", "one", "--id", "two", "--limit", "1")
    assert (some.returncode, some.stderr) == (0, ""), "the other one was not looked for"
    refused = service.command("dead", "--purge")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "add --yes" in refused.stderr
    done = service.command("dead", "--purge", "--yes", "--limit", "1")
    assert done.stdout.endswith(f"1 dead letter of {QUEUE!r} removed\n"), done.stderr
    asking.rests_at(where, 1)
    done = service.command("dead", "--requeue", "--rate", "5")
    assert done.stdout.endswith(f"1 dead letter of {QUEUE!r} put back\n"), done.stderr
    asking.rests_at(where, 1)


def test_a_format_that_there_is_not_ends_the_start(service: Service) -> None:
    process = service.start(healthy=False, LOG_FORMAT="xml")
    assert process.wait(60) == 1
    assert "LOG_FORMAT is 'xml'; it must be text or json" in service.said


@pytest.mark.parametrize("requeue", [True, False])
def test_a_callback_s_own_reject_is_one_line(
    peer: Peer, queue: str, consume: Consume, caplog: pytest.LogCaptureFixture, requeue: bool
) -> None:
    def reject(channel: Any, method: Any, *_: Any) -> None:
        if not method.redelivered:
            for _again in range(2):  # the second time it does nothing
                channel.basic_reject(method.delivery_tag, requeue)

    with caplog.at_level(logging.INFO):
        consume(reject)
        peer.publish(queue, {"message_id": "mine"})
        where = "goes back to the queue" if requeue else "is dead-lettered"
        line = f"message 'mine' of {queue!r} {where}: its callback rejects it"
        eventually(lambda: line in caplog.messages)
    assert caplog.messages.count(line) == 1


def test_without_debug_a_request_that_goes_well_is_no_line_and_a_retry_is_one(
    peer: Peer, queue: str, consume: Consume, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[Any] = []

    def once(_channel: Any, method: Any, *_: Any) -> None:
        if not method.redelivered:
            raise RetryMessage(0.01)
        done.append(method)

    with caplog.at_level(logging.INFO):
        consume(once)
        peer.publish(queue, b"no body", message_id="property")
        eventually(lambda: done)
    about = [each for each in caplog.messages if "message " in each]
    assert about == [f"message 'property' of {queue!r} comes again in 0.01 s"]


def test_an_answer_that_nobody_waits_for_any_more_is_one_line(
    broker: Broker, peer: Peer, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    peer.declare(queue)
    with (
        caplog.at_level(logging.INFO),
        Client(Connection(Address([broker.parameters()]))) as client,
    ):
        with pytest.raises(RequestTimeout):
            client.request(queue, {"message_id": "slow"}, timeout=0.5)
        peer.channel.basic_publish(
            "", client.reply_queue, payload.encode({"message_id": "slow"}), pika.BasicProperties()
        )
        eventually(lambda: [each for each in caplog.messages if "late answer" in each])
    assert "a late answer to message 'slow' is dropped: nobody waits for it any more" in (
        caplog.messages
    )


@pytest.mark.parametrize(
    ("reply", "name"),
    [({"message_id": "gone"}, "message 'gone'"), ({}, "a message without an id")],
)
def test_an_answer_to_a_queue_that_has_gone_is_one_line(
    peer: Peer,
    queue: str,
    consume: Consume,
    caplog: pytest.LogCaptureFixture,
    reply: dict[str, Any],
    name: str,
) -> None:
    def answer(channel: Any, *_: Any) -> None:
        body = payload.encode(reply)
        channel.basic_publish("", "nobody.here", body, pika.BasicProperties(expiration="50"))

    with caplog.at_level(logging.INFO):
        consume(answer)
        peer.publish(queue, {"message_id": "gone"})
        eventually(
            lambda: [
                each
                for each in caplog.messages
                if each.startswith(f"the answer to {name} is late and dropped")
            ]
        )
