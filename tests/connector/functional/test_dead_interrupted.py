"""A connection that is lost while dead letters are looked at: nothing but what is meant is removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mq_connector.commands import dead, terminal
from mq_connector.commands.dead import Task
from mq_connector.commands.letters import Selection
from mq_connector.commands.session import Session
from mq_connector.errors import MQError, NotConnected
from waiting import eventually

from .broker import Broker
from .dead_letters import bury, numbers, service
from .peer import Peer

__all__ = ["bury"]

#: What a listing says of letters whose connection was closed.
LOST = "the connection was lost meanwhile, so the letters"


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have the connection of the command end as by a network, and wait for its next one."""
    opened: list[Session] = []
    enter = Session.__enter__

    def note(session: Session) -> Session:
        opened.append(session)
        return enter(session)

    monkeypatch.setattr(Session, "__enter__", note)

    def lose() -> None:
        session = opened[-1]
        before = session.link
        session.connection.call(session.connection.drop)
        eventually(
            lambda: session._link not in (None, before) and session.is_well, what="another link"
        )

    return lose


@pytest.fixture
def at_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have something happen when so many letters were shown."""

    def at_line(count: int, happen: Callable[[], object]) -> None:
        shown: list[str] = []
        say = terminal.say

        def said(text: str) -> None:
            say(text)
            shown.append(text)
            if len(shown) == count:
                happen()

        monkeypatch.setattr(dead, "say", said)

    return at_line


def run(broker: Broker, queue: str, task: Task, requeue: bool = False) -> int:
    """`python -m … dead` for one queue."""
    return dead.show(service(broker.port, queue), requeue, task)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param({}, id="listing"),
        pytest.param({"purge": True, "yes": True}, id="purge"),
        pytest.param({"purge": True, "yes": True, "selection": Selection(("m2",))}, id="one"),
        pytest.param({"requeue": True}, id="requeue"),
    ],
)
def test_a_loss_in_between_ends_it_with_one_line(
    broker: Broker,
    peer: Peer,
    bury: Callable[..., str],
    queue: str,
    task: dict[str, Any],
    lose: Callable[[], None],
    at_line: Callable[..., None],
) -> None:
    """On the next connection the same letters would come again, under numbers that mean others."""
    where = bury(5)
    requeue = task.pop("requeue", False)
    at_line(1 if "selection" in task else 3, lose)
    with pytest.raises(NotConnected, match=LOST):
        run(broker, queue, Task(**task), requeue)
    peer.rests_at(where, 3 if requeue else 5)
    assert peer.count(queue)[0] == (3 if requeue else 0)


def test_a_loss_while_it_asks_removes_nothing(
    broker: Broker,
    peer: Peer,
    bury: Callable[..., str],
    queue: str,
    lose: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = bury(3)

    def answer(_: str) -> str:
        lose()
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(NotConnected, match=LOST):
        run(broker, queue, Task(purge=True))
    eventually(lambda: peer.count(where)[0] == 3)
    assert numbers(peer, where) == [0, 1, 2]


def test_another_letter_is_not_removed_in_place_of_one(
    broker: Broker,
    peer: Peer,
    bury: Callable[..., str],
    queue: str,
    lose: Callable[[], None],
    at_line: Callable[..., None],
) -> None:
    """Somebody takes the first letter meanwhile: the others have other numbers then."""
    where = bury(9)

    def happen() -> None:
        lose()
        assert numbers(peer, where, 1) == [0]

    at_line(1, happen)
    with pytest.raises(MQError):
        run(broker, queue, Task(Selection(("m2",)), purge=True, yes=True))
    eventually(lambda: peer.count(where)[0] == 8)
    assert numbers(peer, where) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_file_of_letters_has_each_once(
    broker: Broker,
    bury: Callable[..., str],
    queue: str,
    lose: Callable[[], None],
    at_line: Callable[..., None],
    tmp_path: Path,
) -> None:
    bury(5)
    file = tmp_path / "letters"
    at_line(3, lose)
    with pytest.raises(NotConnected, match=LOST):
        run(broker, queue, Task(export=str(file)))
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert ids == ["m0", "m1", "m2"]


def test_who_watches_sees_each_letter_once_though_a_look_is_cut_short(
    broker: Broker,
    bury: Callable[..., str],
    queue: str,
    lose: Callable[[], None],
    at_line: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bury(5)
    at_line(3, lose)
    watched = dead._Watched(service(broker.port, queue), queue, Task(json=True))
    with pytest.raises(NotConnected, match=LOST):
        watched.look()
    watched.look()
    seen = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert seen == ["m0", "m1", "m2", "m3", "m4"]
