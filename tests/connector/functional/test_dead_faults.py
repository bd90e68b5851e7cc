"""Dead letters that are odd or can't be put back: each is one line, and the rest goes on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from mq_connector import payload

from .broker import LIMITED, Broker
from .dead_letters import Show, bury, numbers, show
from .headers import Raw, field, nested
from .peer import Peer

__all__ = ["bury", "show"]


def literal(text: str) -> bytes:
    """A body with a literal that Python itself couldn't write."""
    return base64.b64encode(json.dumps(text).encode())


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
    assert printed(capsys) == [line, f"1 dead letter of {queue!r} put back"]
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
    assert said[-1] == f"1 dead letter of {queue!r} put back"
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
    assert total == f"1 dead letter of {queue!r} put back"
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
