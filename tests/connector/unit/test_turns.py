"""Several workers and quick callbacks: one thread does all, until one callback takes longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from mq_connector.config import Limits
from mq_connector.consumer.workers import turns
from mq_connector.consumer.workers.busy import Busy
from mq_connector.consumer.workers.pace import Pace
from waiting import eventually

from .working import PATIENCE, Delivered, Make, errors, make, nothing_left

__all__ = ["errors", "make", "nothing_left"]

ALWAYS, NEVER = 100.0, 100.0


def soon(seconds: float, look: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, look)
    timer.daemon = True
    timer.start()


@pytest.fixture(autouse=True)
def all_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the quickest may look slow."""
    monkeypatch.setattr(turns, "QUICK", ALWAYS)


def handle(one: Any, count: int) -> None:
    deliveries = [Delivered() for _ in range(count)]
    one.put(*deliveries)
    for each in deliveries:
        assert each.wait().settled == "ack"


def test_one_thread_handles_what_is_quick(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LOOK", NEVER)
    seen: list[threading.Thread] = []

    def callback(*_: Any) -> None:
        seen.append(threading.current_thread())
        time.sleep(0.001)  # all of them would come to see a message

    one = make(callback, count=4, watch=soon)
    handle(one, 40)
    seen.clear()
    handle(one, 40)
    assert len(set(seen)) == 1


@pytest.mark.parametrize("quick", [0.0, ALWAYS])
def test_whoever_takes_longer_lets_others_work(
    make: Make, monkeypatch: pytest.MonkeyPatch, quick: float
) -> None:
    """What is known to be slow is given to all at once; what turns out to be slow, soon."""
    monkeypatch.setattr(turns, "QUICK", quick)
    if not quick:
        monkeypatch.setattr(turns, "LOOK", NEVER)
        monkeypatch.setattr(turns, "TRIAL", 0.0)
    together: list[threading.Barrier] = []
    one = make(lambda *_: [each.wait(PATIENCE) for each in together], count=4, watch=soon)
    handle(one, 40)
    for _ in range(3):
        together[:] = [threading.Barrier(4)]
        handle(one, 4)
        together.clear()
        handle(one, 40)


def test_the_first_callbacks_which_nobody_knows_are_soon_for_all(make: Make) -> None:
    together = threading.Barrier(4)
    handle(make(lambda *_: together.wait(PATIENCE), count=4, watch=soon), 4)


def test_the_first_callbacks_are_not_shared_out_before_one_is_slow(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LOOK", NEVER)
    seen: list[threading.Thread] = []
    handle(make(lambda *_: seen.append(threading.current_thread()), count=4, watch=soon), 40)
    assert len(set(seen)) == 1


def keeps_its_turn(pace: Pace, each: turns.Turns | None = None, now: float = 0.5) -> bool:
    """Whether a worker that begins a callback goes on waiting for messages alone."""
    each, worker = each or turns.Turns(lambda *_: None), Busy(threading.current_thread())
    each.take(worker)
    worker.began = now
    each.begins(worker, pace)
    if each.holder is not worker:
        return False
    each.give(worker)
    return True


def test_a_few_callbacks_that_were_late_make_the_others_no_slow_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of threads that share out messages each waits for all others: none would be quick any more."""
    monkeypatch.setattr(turns, "QUICK", 0.0001)
    pace = Pace(Limits(workers=4), lambda: None)
    quick, late, slow = 20e-6, 500e-6, 1e-3
    for _ in range(20):
        pace.note(8 * quick, 8)
    pace.note(8 * late, 8)
    assert pace.average > turns.QUICK and keeps_its_turn(pace)
    for _ in range(2):
        pace.note(8 * slow, 8)
    assert not keeps_its_turn(pace), "they are slow"
    for _ in range(4):
        pace.note(8 * quick, 8)
    assert pace.usual > turns.QUICK and keeps_its_turn(pace), "they are quick again"


def test_now_and_then_one_that_is_alone_may_show_that_callbacks_are_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "QUICK", 0.0001)
    pace, each = Pace(Limits(workers=4), lambda: None), turns.Turns(lambda *_: None)
    for _ in range(20):
        pace.note(8 * 0.005, 8)  # as many threads see it that wait for each other
    times = (100.0, 100.001, 100.009, 100.02, 100.5, 100.99, 101.001, 101.01, 101.02)
    kept = [keeps_its_turn(pace, each, now) for now in times]
    assert kept == [True, True, True, False, False, False, True, True, False]
    for _ in range(8):
        pace.note(8 * 20e-6, 8)
    assert pace.usual > turns.QUICK and keeps_its_turn(pace, each, 101.5)


def test_slow_callbacks_are_known_by_the_first_ones() -> None:
    pace = Pace(Limits(workers=4), lambda: None)
    assert keeps_its_turn(pace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "QUICK", 0.0001)
        pace.note(0.02)
        assert not keeps_its_turn(pace)


def test_those_who_wait_for_their_turn_end_with_the_service(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LOOK", NEVER)
    held, release = threading.Event(), threading.Event()
    blocks: list[bool] = []

    def callback(*_: Any) -> None:
        if blocks:
            held.set()
            release.wait(PATIENCE)

    one = make(callback, count=4, watch=soon)
    handle(one, 40)
    threads = one.threads()
    blocks.append(True)
    last = Delivered()
    one.put(last)
    assert held.wait(PATIENCE)
    one.workers.stop()
    eventually(lambda: sum(each.is_alive() for each in threads) == 1)
    release.set()
    assert last.wait().settled == "ack"
    for each in threads:
        each.join(PATIENCE)
        assert not each.is_alive()


def test_who_is_called_for_something_else_keeps_nobody_waiting(make: Make) -> None:
    """As where what a message has published was refused, and `error_func` is slow."""
    one = make(lambda *_: None, count=2, watch=soon)
    handle(one, 4)
    goes_on, called = threading.Event(), threading.Event()

    def slow() -> None:
        called.set()
        goes_on.wait(PATIENCE)

    try:
        one.workers.inbox.put(slow)
        assert called.wait(PATIENCE)
        delivered = Delivered()
        one.put(delivered)
        assert delivered.opened.settled.wait(5)
    finally:
        goes_on.set()


def test_looking_begins_anew_where_a_loop_has_forgotten_it(make: Make) -> None:
    calls: list[float] = []
    one = make(lambda *_: None, count=2, watch=lambda seconds, _: calls.append(seconds))
    while not calls:  # one thread is as good as none until its pace is known
        handle(one, 20)
    before = len(calls)
    time.sleep(0.11)
    handle(one, 1)
    assert len(calls) == before + 1


def test_one_that_waits_for_messages_is_not_looked_at(make: Make) -> None:
    """Or a service that has nothing to do would wake for it."""
    looks = 0

    def watch(seconds: float, look: Callable[[], None]) -> None:
        nonlocal looks
        looks += 1
        soon(seconds, look)

    handle(make(lambda *_: None, count=2, watch=watch), 40)
    time.sleep(0.1)
    before = looks
    time.sleep(0.1)
    assert looks == before


class Unknown:
    """Workers that begin callbacks of which nobody knows how long they take, and are looked at when that is asked for."""

    def __init__(self) -> None:
        self.pace = Pace(Limits(workers=32), lambda: None)
        self.looks: list[Callable[[], None]] = []
        self.turns = turns.Turns(lambda _, look: self.looks.append(look))

    def begin(self, ago: float) -> bool:
        """One begins so many seconds ago; returns whether others have to wait for a look."""
        worker = Busy(threading.current_thread())
        self.turns.take(worker)
        worker.began, worker.delivery = time.monotonic() - ago, Delivered()  # type: ignore[assignment]
        self.turns.begins(worker, self.pace)
        return self.turns.holder is worker

    def slow_until_looked_at(self) -> int:
        """How many slow ones begin before a look is needed, which is taken."""
        begun = 1
        while not self.begin(ago=1.0):
            begun += 1
        self.looks.pop()()
        assert self.turns.holder is None
        return begun


def test_each_look_that_finds_a_slow_one_lets_twice_as_many_begin() -> None:
    """Or 32 that wait for another server would have begun one after another, a look apart."""
    workers = Unknown()
    assert [workers.slow_until_looked_at() for _ in range(6)] == [1, 2, 3, 5, 9, 17]


@pytest.mark.parametrize("waits", [False, True])
def test_after_a_quick_one_or_none_a_slow_one_lets_one_begin(waits: bool) -> None:
    workers = Unknown()
    assert [workers.slow_until_looked_at() for _ in range(3)] == [1, 2, 3]
    while not workers.begin(ago=0.0):
        pass
    holder = workers.turns.holder
    assert holder is not None
    if waits:
        holder.delivery = None
    workers.looks.pop()()
    workers.turns.give(holder)
    workers.looks.clear()
    workers.turns._watched_until = 0.0
    assert [workers.slow_until_looked_at() for _ in range(3)] == [1, 2, 3]


def test_one_that_is_to_show_that_callbacks_are_quick_stays_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many were let begin before that."""
    workers = Unknown()
    for _ in range(5):
        workers.slow_until_looked_at()
    monkeypatch.setattr(turns, "QUICK", 0.0001)
    workers.pace.note(0.1)
    assert workers.begin(ago=0.0), "it is the first that is known to be slow, and tried"
