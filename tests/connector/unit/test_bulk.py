"""Which large messages are kept, and how many are to be in hand."""

from __future__ import annotations

import pytest
from mq_connector.consumer.opened.bulk import MOST_BYTES, Bulk, Sizes

_QUARTER = MOST_BYTES // 4


class Hand:
    """A bulk, what of it is done, and how often it was said to be too much."""

    def __init__(self, workers: int = 1) -> None:
        self.done: set[int] = set()
        self.told = 0
        self.sizes = Sizes(workers)
        self.bulk = Bulk(self.sizes, self.done.__contains__)
        self.bulk.on_too_much = self._tell
        self.bulk.begin(200)
        self.tag = 0

    def _tell(self) -> None:
        self.told += 1

    def come(self, *sizes: int) -> list[bool]:
        """Whether each of these bodies is kept."""
        kept = []
        for size in sizes:
            self.tag += 1
            kept.append(size <= self.bulk.counted_beyond or self.bulk.has_room(self.tag, size))
        return kept


def test_as_many_as_there_is_room_for_are_kept() -> None:
    hand = Hand()
    assert hand.come(*[_QUARTER] * 5) == [True] * 4 + [False]
    assert hand.told == 1


def test_what_is_behind_one_that_was_too_much_goes_back_with_it_whatever_its_size() -> None:
    hand = Hand()
    assert hand.come(*[_QUARTER] * 5, 1, _QUARTER) == [True] * 4 + [False] * 3
    assert hand.told == 1
    assert hand.bulk.take_excess() == [5, 6, 7]
    assert hand.bulk.take_excess() == []
    hand.bulk.begin(2)
    assert hand.come(1) == [True]


def test_what_is_done_makes_room() -> None:
    hand = Hand()
    hand.come(*[_QUARTER] * 4)
    hand.done |= {2, 3}
    assert hand.come(*[_QUARTER] * 3) == [True, True, False]


def test_each_worker_may_have_one_however_large() -> None:
    assert Hand(3).come(*[2 * MOST_BYTES] * 4) == [True] * 3 + [False]


def test_small_ones_are_not_counted_as_not_even_all_of_them_are_too_much() -> None:
    hand = Hand()
    assert all(hand.come(*[MOST_BYTES // 200] * 200))
    assert hand.sizes.fitting > 200


def test_fewer_are_asked_for_after_a_large_one_and_more_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("mq_connector.consumer.opened.bulk.time.monotonic", lambda: now)
    sizes = Sizes(2)
    assert sizes.fitting > 10_000
    sizes.saw(MOST_BYTES // 16)
    sizes.saw(MOST_BYTES // 32)
    assert sizes.fitting == 8
    now += 3
    assert sizes.fitting == 64
    sizes.saw(10 * MOST_BYTES)
    assert sizes.fitting == 2, "one for each worker at least"
    now += 1e6
    assert sizes.fitting > 10_000
