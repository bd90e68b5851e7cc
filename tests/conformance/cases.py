"""Which scenario is run on which implementation and which broker."""

from __future__ import annotations

from collections.abc import Iterator

from . import generations
from .checklist import scenarios


def cases() -> Iterator[tuple[str, str, str]]:
    """Every combination, as broker, implementation, scenario.

    The incumbent isn't run where transient queues are denied: it declares no others.
    """
    for name in scenarios():
        yield generations.INSTALLED, "incumbent", name
        yield generations.INSTALLED, "ours", name
    for broker in generations.IN_CONTAINERS:
        for name, each in scenarios().items():
            if each.wire and not (each.transient and broker == generations.DENYING):
                if broker != generations.DENYING:
                    yield broker, "incumbent", name
                yield broker, "ours", name


def expected(broker: str) -> int:
    """How many of them are run on one broker."""
    return sum(each[0] == broker for each in cases())
