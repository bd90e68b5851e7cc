"""Dead letters: looking at them changes nothing, and putting them back loses none."""

from __future__ import annotations

import base64
import json
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from baked import IMPORTABLE, TEMPLATE
from mq_connector import MQConnector, payload
from mq_connector.commands import dead
from running import free_port
from waiting import eventually

from .broker import LIMITED, PASSWORD, USER, VHOST, Broker
from .conftest import Consume
from .peer import Peer

Show = Callable[[bool], int]


@pytest.fixture
def show(broker: Broker, queue: str) -> Show:
    """`python -m … dead` for one queue."""

    def show(requeue: bool) -> int:
        return dead.show(service(broker.port, queue), requeue)

    return show


def service(port: int, queue: str) -> MQConnector:
    """A service with one input queue, which it doesn't run."""
    config = {"port": port, "users": {"mine": {"username": USER, "password": PASSWORD}}}
    made = MQConnector({**config, "server": "127.0.0.1"}, service_name="mine")
    made.vhost = VHOST
    from mq_connector import ConsumerThread

    consumer = ConsumerThread(made.create_mq_connection(), queue, lambda *_: None)
    made.consumers = {queue: consumer}
    return made


@pytest.fixture
def bury(peer: Peer, queue: str, consume: Consume) -> Callable[..., str]:
    """Let messages die in their handler; returns the name of the queue they come to rest in."""

    def bury(count: int, headers: dict[str, Any] | None = None) -> str:
        where = peer.declare_dead(queue)

        def fail(*_: Any) -> None:
            raise ValueError("no good")

        consumer = consume(fail)
        for number in range(count):
            properties: dict[str, Any] = {
                "message_id": f"m{number}",
                "headers": headers,
                "priority": 3,
            }
            peer.publish(queue, {"number": number}, **properties)
        eventually(lambda: peer.count(where)[0] == count)
        consumer.stop(2)
        consumer.join(60)
        return where

    return bury


def numbers(peer: Peer, queue: str) -> list[int]:
    """What is in a queue, which this empties."""
    count = peer.count(queue)[0]
    return [payload.decode(peer.take(queue)[1])["number"] for _ in range(count)]


def test_listing_twice_changes_nothing(
    peer: Peer, bury: Callable[..., str], show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = bury(5)
    assert show(False) == 0
    first = capsys.readouterr().out
    assert show(False) == 0
    assert capsys.readouterr().out == first
    *lines, last = first.splitlines()
    assert last == f"5 dead letters of {queue!r}"
    assert len(lines) == 5
    for number, line in enumerate(lines):
        assert f"  'm{number}'  rejected  ValueError: no good  {{'number': {number}}}" in line
        assert line.startswith(time.strftime("%Y-", time.gmtime()))
    eventually(lambda: peer.count(where)[0] == 5)
    assert numbers(peer, where) == list(range(5))
    peer.rests_at(queue, 0)


def test_requeueing_loses_nothing_and_takes_the_obituary_away(
    peer: Peer, bury: Callable[..., str], show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = bury(20, headers={"mine": "kept", "x-request": 7})
    assert show(True) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"20 dead letters of {queue!r} put back"
    peer.rests_at(where, 0)
    peer.rests_at(queue, 20)
    for number in range(20):
        properties, body = peer.take(queue)
        assert payload.decode(body) == {"number": number}
        assert properties.headers == {"mine": "kept", "x-request": 7}
        assert (properties.message_id, properties.priority) == (f"m{number}", 3)


def test_what_fails_again_at_once_ends_it_and_nothing_is_lost(
    peer: Peer,
    bury: Callable[..., str],
    show: Show,
    queue: str,
    consume: Consume,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The service runs meanwhile and fills the dead-letter queue as fast as it is emptied."""
    where = bury(100)

    def fail(*_: Any) -> None:
        raise ValueError("still bad")

    consume(fail)
    assert show(True) == 1
    *_, why, last = capsys.readouterr().out.splitlines()
    assert why == f"stopped: dead letters have come to {queue!r} since it began"
    assert re.fullmatch(rf"\d+ dead letters of {queue!r} put back", last)
    assert int(last.split()[0]) < 100
    peer.rests_at(where, 100)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What happens between the looks of who watches, who is interrupted after the last."""

    def between(*steps: Callable[[], object]) -> None:
        left = iter(steps)

        def sleep(_: float) -> None:
            step = next(left, None)
            if step is None:
                raise KeyboardInterrupt
            step()

        monkeypatch.setattr(dead, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))

    return between


def test_who_watches_sees_each_letter_once_and_new_ones_as_they_come(
    broker: Broker,
    peer: Peer,
    bury: Callable[..., str],
    between: Callable[..., None],
    queue: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = bury(3)
    seen: list[int] = []

    def look() -> None:
        seen.append(capsys.readouterr().out.count("  rejected  "))

    def come() -> None:
        look()
        peer.publish(where, b"{}", message_id="new", headers={"x-exception-type": "Oddity"})

    between(come, look, look)
    assert dead.follow(service(broker.port, queue), dead.Task()) == 0
    assert seen == [3, 1, 0]
    peer.rests_at(where, 4)


def test_who_watches_outlives_a_broker_that_is_away(
    between: Callable[..., None], queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    between(lambda: None, lambda: None)
    assert dead.follow(service(free_port(), queue), dead.Task()) == 0
    assert capsys.readouterr().err.count("; trying again\n") == 1


def test_what_was_put_back_is_handled_as_new(
    peer: Peer, bury: Callable[..., str], show: Show, queue: str, consume: Consume
) -> None:
    where = bury(3)
    show(True)
    seen: list[Any] = []
    consume(
        lambda _c, method, properties, _b: seen.append((method.redelivered, properties.headers))
    )
    eventually(lambda: len(seen) == 3)
    assert seen == [(False, None)] * 3
    peer.rests_at(where, 0)


def test_what_has_no_queue_to_go_back_to_stays_a_dead_letter(
    peer: Peer, bury: Callable[..., str], show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = bury(3)
    peer.channel.queue_delete(queue)
    assert show(True) == 1
    said = capsys.readouterr().out
    assert said.count(f"stays a dead letter: there is no queue {queue!r} any more") == 3
    assert said.splitlines()[-1] == f"0 dead letters of {queue!r} put back"
    eventually(lambda: peer.count(where)[0] == 3)
    assert numbers(peer, where) == [0, 1, 2]


def test_no_dead_letters_are_none(
    peer: Peer, show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    peer.declare_dead(queue)
    assert show(False) == 0
    assert capsys.readouterr().out == f"0 dead letters of {queue!r}\n"


def test_odd_bodies_are_listed_in_one_line_each(
    peer: Peer, show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = peer.declare_dead(queue)
    for body in (b"\x00\xff\n" * 100, b"", b"x" * 100_000):
        peer.publish(where, body)
    assert show(False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(len(line) < 200 for line in lines)
    assert "(100000 bytes)" in lines[2]


def test_however_many_there_are_pika_keeps_one_callback(
    peer: Peer,
    show: Show,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pika looks through all callbacks for each new one: one for each message took minutes."""
    where = peer.declare_dead(queue)
    for number in range(200):
        peer.publish(where, {"number": number})
    added: list[Any] = []
    add = pika.channel.Channel.add_callback

    def count(self: Any, *args: Any, **options: Any) -> None:
        added.append(args)
        add(self, *args, **options)

    monkeypatch.setattr(pika.channel.Channel, "add_callback", count)
    assert show(False) == 0
    assert capsys.readouterr().out.count("\n") == 201
    assert len(added) < 10


# ---- one letter's fault is one line, whatever it is, and the rest goes on


def literal(text: str) -> bytes:
    """A body with a literal that Python itself couldn't write."""
    return base64.b64encode(json.dumps(text).encode())


class Raw(pika.BasicProperties):
    """Properties of which pika knows nothing: nothing but headers, as they go over the wire."""

    def __init__(self, table: bytes) -> None:
        super().__init__()
        self._table = table

    def encode(self) -> list[bytes]:
        return [b"\x20\x00", struct.pack(">L", len(self._table)), self._table]


def field(name: str, kind: bytes, value: bytes) -> bytes:
    """An entry of a header table (AMQP 0-9-1, 4.2.5.5)."""
    return bytes([len(name)]) + name.encode() + kind + value


def nested(levels: int) -> bytes:
    """A table in a table in a table."""
    table = b""
    for _ in range(levels):
        table = field("t", b"F", struct.pack(">L", len(table)) + table)
    return table


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that were printed; nothing in them that a terminal would obey."""
    *lines, end = capsys.readouterr().out.split("\n")
    assert end == ""
    assert all(line.isprintable() for line in lines)
    return lines


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(payload.encode({"n": 1}), id="a request"),
        pytest.param(literal(f"{{'n': {'9' * 5000}}}"), id="an integer of 5000 digits"),
        pytest.param(literal(f"{{'n': 0x{'f' * 5000}}}"), id="the same, in hex"),
        pytest.param(literal("{'n': '\x1b[2J\u202e\n'}"), id="escape sequences"),
        pytest.param(b"\x1b[2J", id="no request"),
        pytest.param(b'{"n": ' + b"[" * 50_000, id="brackets"),
    ],
)
def test_a_letter_that_cannot_be_shown_is_one_line_like_any_other(
    peer: Peer, show: Show, queue: str, body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    where = peer.declare_dead(queue)
    peer.declare(queue)
    for each in (body, payload.encode({"number": 1})):
        peer.publish(where, each)
    assert show(False) == 0
    assert len(printed(capsys)) == 3
    assert show(True) == 0
    assert printed(capsys)[-1] == f"2 dead letters of {queue!r} put back"
    assert [peer.take(queue)[1] for _ in range(2)] == [body, payload.encode({"number": 1})]


LATER = datetime(2026, 1, 2, tzinfo=timezone.utc)
AGE = (datetime.now(timezone.utc) - LATER).days


@pytest.mark.parametrize(
    ("death", "line"),
    [
        pytest.param(
            "no list",
            "at some time  of unknown age  without id  unknown  {'number': 0}",
            id="a text",
        ),
        pytest.param(
            [], "at some time  of unknown age  without id  unknown  {'number': 0}", id="nothing"
        ),
        pytest.param(
            ["no table"],
            "at some time  of unknown age  without id  unknown  {'number': 0}",
            id="a list of texts",
        ),
        pytest.param(
            [{"queue": 7, "reason": ["rejected"], "time": "yesterday"}],
            "at some time  of unknown age  without id  unknown  {'number': 0}",
            id="wrong types",
        ),
        pytest.param(
            [{"reason": "\x1b]0;owned\x07\nit" + "x" * 500, "time": LATER}],
            f"2026-01-02 00:00:00+0000  {AGE} d  without id  "
            r"\x1b]0;owned\x07\nit" + "x" * 27 + "…  {'number': 0}",
            id="escape sequences",
        ),
    ],
)
def test_an_account_of_a_death_that_is_none_is_not_believed(
    peer: Peer,
    show: Show,
    queue: str,
    death: Any,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = peer.declare_dead(queue)
    peer.declare(queue)
    peer.publish(where, {"number": 0}, headers={"x-death": death, "mine": 1})
    assert show(True) == 0
    assert printed(capsys) == [line, f"1 dead letters of {queue!r} put back"]
    assert peer.take(queue)[0].headers == {"mine": 1}


def test_a_letter_does_not_choose_the_queue_that_it_goes_to(
    peer: Peer, show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client may write to the dead letters, and may not have the rights that the service has."""
    where = peer.declare_dead(queue)
    peer.declare(queue)
    other = peer.declare("", exclusive=True)
    forged = {"x-death": [{"queue": other, "reason": "rejected", "count": 1}]}
    peer.publish(where, {"number": 0}, headers=forged)
    peer.publish(where, {"number": 1})
    assert show(True) == 1
    said = printed(capsys)
    assert said[1] == (
        f"stays a dead letter: it says that it died in queue {other!r}, which this service doesn't "
        "consume"
    )
    assert said[-1] == f"1 dead letters of {queue!r} put back"
    peer.rests_at(other, 0)
    assert (numbers(peer, where), numbers(peer, queue)) == ([0], [1])


def test_copies_that_its_publisher_asked_for_are_not_made_again(
    peer: Peer, bury: Callable[..., str], show: Show, queue: str
) -> None:
    copies = peer.declare("", exclusive=True)
    bury(1, headers={"CC": [copies], "mine": 1})
    assert peer.count(copies)[0] == 1
    assert show(True) == 0
    peer.rests_at(queue, 1)
    assert peer.count(copies)[0] == 1
    assert peer.take(queue)[0].headers == {"mine": 1}


def test_what_another_user_has_published_is_put_back_without_that_name(
    broker: Broker, peer: Peer, show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = peer.declare_dead(queue)
    peer.declare(queue)
    other = Peer(broker.parameters(user=LIMITED))
    other.publish(where, {"number": 0}, user_id=LIMITED, app_id="kept")
    other.close()
    peer.publish(where, {"number": 1})
    assert show(True) == 0
    assert printed(capsys)[-1] == f"2 dead letters of {queue!r} put back"
    properties, _ = peer.take(queue)
    assert (properties.user_id, properties.app_id) == (None, "kept")


@pytest.mark.parametrize("size", [130_700, 130_850, 131_000])
def test_a_letter_whose_death_made_its_headers_too_large_is_listed_and_put_back(
    peer: Peer, bury: Callable[..., str], show: Show, queue: str, size: int
) -> None:
    """The broker doesn't split a header, and adds its own to what filled a frame already."""
    headers = {"large": "x" * size}
    bury(2, headers=headers)
    assert show(False) == 0
    assert show(True) == 0
    assert [peer.take(queue)[0].headers for _ in range(2)] == [headers, headers]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        pytest.param(nested(5_000), "can't be read", id="tables in tables"),
        pytest.param(field("t", b"T", b"\xff" * 8), "can't be read", id="a time past all years"),
        # pika writes as four bytes what came as one.
        pytest.param(
            b"".join(field(f"n{each}", b"b", b"\x01") for each in range(14_000)),
            "bytes where this connection allows 131072",
            id="small numbers",
        ),
    ],
)
def test_a_letter_that_cannot_be_put_back_stays_and_the_rest_goes_on(
    peer: Peer,
    show: Show,
    queue: str,
    table: bytes,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = peer.declare_dead(queue)
    peer.declare(queue)
    peer.channel.basic_publish("", where, b"x", Raw(table), mandatory=True)
    peer.publish(where, {"number": 1})
    assert show(False) == 0
    assert len(printed(capsys)) == 3
    assert show(True) == 1
    _, why, _, total = printed(capsys)
    assert why.startswith("stays a dead letter: its ") and reason in why
    assert total == f"1 dead letters of {queue!r} put back"
    assert numbers(peer, queue) == [1]
    peer.rests_at(where, 1)
    peer.reset()  # pika can't read it either


def test_a_header_whose_name_is_no_text_is_put_back_as_it_is(
    peer: Peer, show: Show, queue: str
) -> None:
    where = peer.declare_dead(queue)
    peer.declare(queue)
    peer.channel.basic_publish("", where, b"x", Raw(b"\x02\xff\xfet\x01"), mandatory=True)
    assert show(True) == 0
    headers: Any = peer.take(queue)[0].headers
    assert headers == {b"\xff\xfe": True}


def test_what_the_broker_does_not_take_back_stays_and_the_rest_goes_on(
    peer: Peer, show: Show, queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = peer.declare_dead(queue)
    peer.declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    for number in range(2):
        peer.publish(where, {"number": number})
    peer.publish(queue, {"number": 7})
    assert show(True) == 1
    said = printed(capsys)
    assert (
        said.count(
            "stays a dead letter: the broker refused the message (basic.nack); is its queue full?"
        )
        == 2
    )
    assert said[-1] == f"0 dead letters of {queue!r} put back"
    peer.rests_at(where, 2)


#: Puts back one message after the other, and is killed between publishing one and removing it.
CUT_SHORT = """
import os, signal, sys
sys.path[:0] = {path!r}
from connector.functional.test_dead import service
from mq_connector.commands import dead

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

remove, removed = dead.DeadLetterQueue.remove, []

def remove_two(self, letter):
    if len(removed) == 2:
        die()
    removed.append(letter)
    remove(self, letter)

dead.DeadLetterQueue.remove = remove_two
dead.show(service({port}, {queue!r}), True)
"""


def test_killed_between_publish_and_ack_it_leaves_the_message_in_both(
    broker: Broker, peer: Peer, bury: Callable[..., str], queue: str
) -> None:
    where = bury(5)
    path = [str(TEMPLATE / "tests"), *IMPORTABLE]
    code = CUT_SHORT.format(path=path, port=broker.port, queue=queue)
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    eventually(lambda: peer.count(where)[0] == 3)
    assert numbers(peer, where) == [2, 3, 4]
    assert numbers(peer, queue) == [0, 1, 2]
