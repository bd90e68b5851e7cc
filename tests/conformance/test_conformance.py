"""Every scenario of the checklist, on the incumbent and on ours, over real brokers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from . import generations
from .cases import cases
from .checklist import scenarios

#: Which brokers come one after the other where tests run in several processes.
_GROUPS = {generations.INSTALLED: "a", generations.DENYING: "a", "4.0": "b", "4.3": "b"}


def _parameters() -> Iterator[Any]:
    for broker, kind, name in cases():
        # A broker's scenarios are under way on all lanes at once; two brokers' are enough.
        marks = [pytest.mark.xdist_group(f"conformance-{_GROUPS[broker]}")]
        if kind == "incumbent" and scenarios()[name].incumbent_fails:
            scenario = scenarios()[name]
            reason = scenario.incumbent_fails
            marks.append(pytest.mark.xfail(strict=not scenario.by_chance, reason=reason))
        if broker in generations.IN_CONTAINERS:
            marks.append(pytest.mark.containers)
        yield pytest.param(broker, name, kind, marks=marks, id=f"{name}-{kind}-{broker}")


@pytest.mark.parametrize(("broker_name", "scenario_name", "kind"), list(_parameters()))
def test_what_services_rely_on(
    subjects: Callable[[str], Any],
    book: list[dict[str, Any]],
    broker_name: str,
    scenario_name: str,
    kind: str,
) -> None:
    scenario = scenarios()[scenario_name]
    outcome = subjects(broker_name)[kind, scenario_name].result(scenario_name)
    book.append(
        {
            "broker": broker_name,
            "line": scenario.line,
            "scenario": scenario_name,
            "implementation": kind,
            "kept": not outcome.trouble,
            "seconds": round(outcome.seconds, 2),
            "tries": outcome.tries,
            "why_not": scenario.incumbent_fails if kind == "incumbent" else "",
        }
    )
    if outcome.trouble:
        pytest.fail(outcome.trouble, pytrace=False)
