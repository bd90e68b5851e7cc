"""The soak itself: replayed from its seed, and with an eye for what it is there to see."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from soak.faults import KINDS, Size, plan
from soak.ledger import Ledger


def test_the_same_seed_brings_the_same_faults() -> None:
    assert plan(7, 200) == plan(7, 200)
    assert plan(7, 200) != plan(8, 200)


def test_every_kind_of_fault_comes_up_in_a_run() -> None:
    for seed in range(20):
        assert {kind for kind, _ in plan(seed, 200)} == set(KINDS)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A service's journal."""
    path = tmp_path / "journal"
    path.touch()
    return path


def read(journal: Path, confirmed: set[int], text: str) -> Ledger:
    """A ledger of which so much was confirmed, after it has read this."""
    broker: Any = SimpleNamespace(parameters=lambda **_: None)
    ledger = Ledger(broker, "queue", journal)
    ledger.sent, ledger.confirmed = 10, confirmed
    journal.write_text(text, encoding="ascii")
    ledger.stop()  # so that it reads once
    cast(Any, ledger)._read()
    return ledger


def test_what_was_confirmed_and_is_not_processed_is_lost(journal: Path) -> None:
    ledger = read(journal, {1, 2, 3, 4}, "1 0\n3 1\n9 0\n")
    assert ledger.lost == {2, 4}
    assert ledger.figures["processed"] == 3


def test_a_second_delivery_is_a_duplicate_that_has_to_be_marked(journal: Path) -> None:
    ledger = read(journal, {1, 2}, "1 1\n1 1\n1 1\n2 0\n2 0\n")
    assert ledger.redelivered == 2
    assert ledger.unmarked == [2]
    assert not ledger.lost


def test_a_line_that_is_still_being_written_is_left_for_later(journal: Path) -> None:
    ledger = read(journal, {1, 12}, "1 0\n12")
    assert ledger.lost == {12}


def test_what_a_deleted_queue_may_have_held_is_not_lost_but_what_came_later_is(
    journal: Path,
) -> None:
    ledger = read(journal, {1, 2, 11}, "1 0\n")
    ledger.queue_was_deleted()
    ledger.sent = 11
    assert ledger.deleted == {2}
    assert ledger.lost == {11}


def test_a_service_that_grows_from_fault_to_fault_is_noticed() -> None:
    first = Size(threads=12, files=20, megabytes=27.0)
    assert first.flat(Size(threads=13, files=24, megabytes=30.0))
    for name in vars(first):
        grown = Size(**{**vars(first), name: getattr(first, name) + 17})
        assert not first.flat(grown)
        assert first.largest(grown) == grown
