"""Dead letters say why, on queues of both kinds; which of them are meant can be said; none is lost."""

from __future__ import annotations

import base64
import json
import stat
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from mq_connector import payload
from mq_connector.commands import dead
from mq_connector.commands.letters import Selection, moment
from mq_connector.errors import MQError
from waiting import eventually

from .broker import DEAD_LETTERS, Broker
from .conftest import Consume
from .dead_letters import service
from .peer import Peer, death_of

Show = Callable[..., int]


class Oddity(Exception):
    """Of a name that nothing else has."""


def publish(peer: Peer, queue: str, count: int) -> None:
    """Publish messages with the numbers from 0 on."""
    for number in range(count):
        peer.publish(queue, {"message_id": f"m{number}", "number": number})


def fail(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
    number = payload.decode(body)["number"]
    raise (Oddity if number % 2 else ValueError)(f"no {number}\n\x1b[31m{'x' * 9999}")


@pytest.fixture
def show(broker: Broker, queue: str) -> Show:
    """`python -m … dead` for one queue."""

    def show(requeue: bool = False, selection: Selection | None = None, **task: Any) -> int:
        wanted = dead.Task(selection or Selection(), **task)
        return dead.show(service(broker.port, queue), requeue, wanted)

    return show


@pytest.fixture
def bury(peer: Peer, queue: str, consume: Consume) -> Callable[[int], str]:
    """Let messages die in their handler; returns the name of the queue they come to rest in."""

    def bury(count: int) -> str:
        where = peer.declare_dead(queue)
        consumer = consume(fail)
        publish(peer, queue, count)
        eventually(lambda: peer.count(where)[0] == count)
        consumer.stop(2)
        consumer.join(60)
        return where

    return bury


@pytest.mark.parametrize("kind", ["quorum", "legacy"])
def test_a_dead_letter_says_what_was_raised_when_and_at_which_delivery(
    peer: Peer, queue: str, consume: Consume, kind: str
) -> None:
    where = peer.declare_dead(queue)
    consume(fail, queue_type=kind)
    forged: dict[str, Any] = {
        "x-exception-type": "Forged",
        "x-death": "forged",
        "CC": [queue],
        "mine": 1,
    }
    properties: dict[str, Any] = {
        "headers": forged,
        "expiration": "60000",
        "priority": 2,
        "correlation_id": "c",
    }
    peer.publish(queue, {"number": 1}, **properties)
    letter, body = peer.take(where)
    assert payload.decode(body) == {"number": 1}
    headers: dict[str, Any] = dict(letter.headers or {})
    died_at = datetime.fromisoformat(headers.pop("x-died-at"))
    assert abs(datetime.now(timezone.utc) - died_at) < timedelta(minutes=5)
    text = headers.pop("x-exception-message")
    assert text.startswith(r"no 1\n\x1b[31mxxx")
    assert len(text) < 2100
    assert headers == {
        "mine": 1,
        "x-exception-type": "Oddity",
        "x-deliveries": 1,
        "x-original-exchange": "",
        "x-original-routing-key": queue,
    }
    assert (letter.expiration, letter.priority, letter.correlation_id) == (None, 2, "c")
    peer.rests_at(queue, 0)


def test_where_the_dead_letters_have_another_queue_the_broker_takes_them_there(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """As before there were reasons: nothing is lost for want of a queue of the usual name."""
    where = peer.declare("", exclusive=True)
    peer.channel.queue_bind(where, DEAD_LETTERS, queue)
    consume(fail)
    publish(peer, queue, 5)
    letters = [peer.take(where) for _ in range(5)]
    assert {death_of(properties)["reason"] for properties, _ in letters} == {"rejected"}
    assert sorted(payload.decode(body)["number"] for _, body in letters) == list(range(5))


def test_a_full_queue_of_dead_letters_costs_no_message(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """The broker's no to the copy leaves it to the policy, as before."""
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    peer.declare(f"{queue}.dead", durable=True, arguments=full)
    other = peer.declare("", exclusive=True)
    peer.channel.queue_bind(other, DEAD_LETTERS, queue)
    consume(fail)
    publish(peer, queue, 4)
    eventually(lambda: peer.count(f"{queue}.dead")[0] + peer.count(other)[0] == 4)
    peer.rests_at(queue, 0)


def test_a_letter_of_a_message_that_came_again_counts_its_deliveries(
    peer: Peer, queue: str, consume: Consume
) -> None:
    """So the second of two letters, which a lost connection can leave, is told from the first."""
    where = peer.declare_dead(queue)

    def lose_then_fail(channel: Any, method: Any, *_: Any) -> None:
        if not method.redelivered:
            channel.basic_reject(method.delivery_tag)
        else:
            raise Oddity

    consume(lose_then_fail, queue_type="quorum")
    peer.publish(queue, {"number": 1})
    letter, _ = peer.take(where)
    assert (letter.headers or {})["x-deliveries"] == 2


def test_each_of_many_that_fail_dies_once(peer: Peer, queue: str, consume: Consume) -> None:
    where = peer.declare_dead(queue)
    consume(fail, workers=4)
    publish(peer, queue, 300)
    eventually(lambda: peer.count(where)[0] >= 300)
    peer.rests_at(where, 300)
    found = {payload.decode(peer.take(where)[1])["number"] for _ in range(300)}
    assert found == set(range(300))
    peer.rests_at(queue, 0)


def test_what_was_settled_before_it_failed_is_no_dead_letter(
    peer: Peer, queue: str, consume: Consume
) -> None:
    where = peer.declare_dead(queue)

    def ack_and_fail(channel: Any, method: Any, *_: Any) -> None:
        channel.basic_ack(method.delivery_tag)
        raise ValueError("too late")

    consume(ack_and_fail)
    publish(peer, queue, 5)
    peer.rests_at(queue, 0)
    peer.rests_at(where, 0)


def test_a_stop_waits_for_what_is_being_buried(peer: Peer, queue: str, consume: Consume) -> None:
    where = peer.declare_dead(queue)
    consumer: Any = None

    def fail_and_stop(*_: Any) -> None:
        consumer.stop(10)
        raise Oddity

    consumer = consume(fail_and_stop)
    peer.publish(queue, {"number": 1})
    consumer.join(60)
    assert not consumer.is_alive()
    letter, _ = peer.take(where)
    assert (letter.headers or {})["x-exception-type"] == "Oddity"
    peer.rests_at(queue, 0)


# ---- dead


def ids(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line)["id"] for line in lines if line.startswith("{")]


def test_letters_are_chosen_by_id_reason_age_and_number(
    peer: Peer, bury: Callable[[int], str], show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    where = bury(6)
    now = datetime.now(timezone.utc)
    hour = timedelta(hours=1)
    for selection, found in (
        (Selection(), ["m0", "m1", "m2", "m3", "m4", "m5"]),
        (Selection(ids=("m2", "m4")), ["m2", "m4"]),
        (Selection(reason="Oddity"), ["m1", "m3", "m5"]),
        (Selection(reason="rejected", limit=2), ["m0", "m1"]),
        (Selection(reason="expired"), []),
        (Selection(since=now - hour, limit=1), ["m0"]),
        (Selection(since=now + hour), []),
    ):
        assert show(selection=selection, json=True) == 0
        assert ids(capsys) == found, selection
    assert show(True, Selection(ids=("m3",))) == 0
    peer.rests_at(where, 5)


def test_a_letter_in_json_and_in_a_file(
    peer: Peer,
    bury: Callable[[int], str],
    show: Show,
    queue: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = bury(2)
    file = tmp_path / "letters"
    assert show(json=True, export=str(file)) == 0
    lines = capsys.readouterr().out.splitlines()
    first = json.loads(lines[0])
    assert (first["id"], first["queue"], first["reason"]) == ("m0", queue, "rejected")
    assert first["exception"].startswith(r"ValueError: no 0\n\x1b[31m")
    assert (first["deliveries"], 0 <= first["age"] < 600) == (1, True)
    assert all(line.isprintable() for line in lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    bodies = [payload.decode(base64.b64decode(each["body"])) for each in exported]
    assert [body["number"] for body in bodies] == [0, 1]
    assert exported[0]["properties"]["headers"]["x-exception-type"] == "ValueError"
    with pytest.raises(MQError, match="File exists"):
        show(export=str(file), purge=True, yes=True)
    peer.rests_at(where, 2)


def test_a_purge_without_a_terminal_asks_for_yes_and_removes_nothing(
    peer: Peer, bury: Callable[[int], str], show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = bury(4)
    with open("/dev/null") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(MQError, match="add --yes"):
            show(purge=True)
    peer.rests_at(where, 4)


def test_a_purge_removes_what_was_chosen_and_asks_before(
    peer: Peer,
    bury: Callable[[int], str],
    show: Show,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    where = bury(4)
    monkeypatch.setattr(sys, "stdin", Terminal)
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return answers.pop(0)

    monkeypatch.setattr("builtins.input", answer)
    answers = ["", "y"]
    assert show(selection=Selection(reason="Oddity"), purge=True) == 1
    assert capsys.readouterr().out.endswith(f"2 dead letters of {queue!r} kept\n")
    peer.rests_at(where, 4)
    assert show(selection=Selection(reason="Oddity"), purge=True) == 0
    assert capsys.readouterr().out.endswith(f"2 dead letters of {queue!r} removed\n")
    assert asked == [f"Remove 2 dead letters of {queue!r} for good? [y/N] "] * 2
    peer.rests_at(where, 2)
    assert show(purge=True, yes=True) == 0
    peer.rests_at(where, 0)


def test_at_a_pace_it_stops_when_they_die_again(
    peer: Peer,
    bury: Callable[[int], str],
    show: Show,
    queue: str,
    consume: Consume,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = bury(5)
    consume(fail)
    assert show(True, rate=2.0) == 1
    said = capsys.readouterr().out
    assert f"stopped: dead letters have come to {queue!r} since it began" in said
    peer.rests_at(where, 5)


def test_a_pace_is_kept(peer: Peer, bury: Callable[[int], str], show: Show, queue: str) -> None:
    where = bury(4)
    began = time.monotonic()
    assert show(True, rate=10.0) == 0
    assert time.monotonic() - began >= 0.4
    peer.rests_at(where, 0)
    peer.rests_at(queue, 4)


@pytest.mark.parametrize("text", ["", "h", "5w", "-1h", "tomorrow", "999999999d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a time ago"):
        moment(text)


def test_times_may_be_ages_or_dates() -> None:
    assert abs(datetime.now(timezone.utc) - moment("2h") - timedelta(hours=2)).seconds < 60
    assert moment("2026-01-31T12:00+01:00") == datetime(2026, 1, 31, 11, tzinfo=timezone.utc)
    assert moment("2026-01-31").tzinfo is not None


def test_where_nothing_takes_the_dead_letters_it_is_said_once_until_something_does(
    peer: Peer, queue: str, consume: Consume, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker drops what it can dead-letter nowhere, and tells nobody."""

    def said() -> list[str]:
        return [each.getMessage() for each in caplog.records if "takes no dead" in each.message]

    def handled(count: int) -> None:
        publish(peer, queue, count)
        peer.rests_at(queue, 0)

    failed: list[Exception] = []
    consume(fail, error_func=lambda _, error: failed.append(error))
    handled(5)
    eventually(lambda: len(failed) == 5)
    eventually(said, what="a warning")
    assert len(said()) == 1
    assert f"'{queue}.dead' takes no dead letters" in said()[0]
    assert "is lost where they don't; run rabbitmq/provision.py" in said()[0]

    where = peer.declare_dead(queue)
    handled(3)
    eventually(lambda: peer.count(where)[0] == 3)
    peer.channel.queue_delete(where)
    handled(2)
    eventually(lambda: len(said()) == 2, what="the next time it is news")
