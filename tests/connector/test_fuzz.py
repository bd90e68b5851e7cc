"""A short run of `scripts/fuzz.py`; the long one is recorded in docs/reliability.md."""

from __future__ import annotations

import pytest
from baked import TEMPLATE, load

fuzz = load("fuzz", TEMPLATE / "scripts" / "fuzz.py")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2026])
def test_broken_bodies_are_decoded_as_the_reference_does_or_refused(seed: int) -> None:
    ledger = fuzz.run(10_000, seed)
    assert ledger["decoded"] > 500
    assert ledger["refused"] > 5_000
    assert ledger["through the callback"] == 10_000


def test_a_decoder_that_differs_from_the_reference_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = fuzz.payload.decode
    monkeypatch.setattr(fuzz.payload, "decode", lambda body: {**right(body), "more": 1})
    with pytest.raises(AssertionError):
        fuzz.run(1_000, 1)
