"""Dead letters: looking at them changes nothing, and putting them back loses none."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from baked import IMPORTABLE, TEMPLATE
from mq_connector import payload
from mq_connector.commands import dead
from running import free_port
from waiting import eventually

from .broker import Broker
from .conftest import Consume
from .dead_letters import Show, bury, numbers, service, show
from .peer import Peer

__all__ = ["bury", "show"]


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


def test_requeueing_loses_nothing_and_takes_the_headers_of_death_away(
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
    assert re.fullmatch(rf"\d+ dead letters? of {queue!r} put back", last)
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


#: Puts back one message after the other, and is killed between publishing one and removing it.
CUT_SHORT = """
import os, signal, sys
sys.path[:0] = {path!r}
from connector.functional.dead_letters import service
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


FULL = """
import resource, sys
sys.path[:0] = {path!r}
from connector.functional.test_dead import dead, service
from mq_connector.commands.terminal import guarded

task = dead.Task(export={export!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
sys.exit(guarded("mine", lambda: dead.show(service({port}, {queue!r}), True, task)))
"""


def test_what_there_is_no_room_for_in_the_file_stays_and_the_file_holds_whole_lines(
    broker: Broker, peer: Peer, bury: Callable[..., str], queue: str, tmp_path: Path
) -> None:
    where, export = bury(5), tmp_path / "letters"
    path = [str(TEMPLATE / "tests"), *IMPORTABLE]
    code = FULL.format(path=path, port=broker.port, queue=queue, export=str(export))
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said.startswith(f"mine: can't write to {str(export)!r}: File too large; the letters")
    written = [json.loads(line)["id"] for line in export.read_text().splitlines()]
    assert 0 < len(written) < 5
    eventually(lambda: peer.count(where)[0] == 5 - len(written))
    assert [f"m{number}" for number in numbers(peer, queue)] == written
