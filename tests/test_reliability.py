"""The page on reliability: its tables are made from what was measured, and say that nothing was lost."""

from __future__ import annotations

import re
from typing import Any

import pytest
from baked import TEMPLATE, load

reliability = load("reliability", TEMPLATE / "scripts" / "reliability.py")
PAGE = (TEMPLATE / "docs" / "reliability.md").read_text(encoding="utf-8")


def table(name: str) -> list[dict[str, str]]:
    """The last table between two marks of the page."""
    [block] = re.findall(f"<!-- {name} -->(.*?)<!-- end of {name} -->", PAGE, re.DOTALL)
    text = block.strip().split("\n\n")[-1]
    heads, _, *rows = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in text.split("\n")
    ]
    return [dict(zip(heads, row, strict=True)) for row in rows]


def test_a_fault_comes_with_its_cause_its_bound_and_its_ledger() -> None:
    ledger = {"sent": 10, "confirmed": 9, "processed": 9, "duplicated": 2, "lost": 0}
    row: dict[str, Any] = {"fault": "broker: kill -9, start", "bound": 2.0, "recovery": 0.368}
    text = reliability.faults([{**row, **ledger}])
    cause = reliability.cause("broker: kill -9, start")
    assert text.splitlines()[-1] == (
        f"| broker: kill -9, start | {cause} | 2.00 | 0.37 | 10 | 9 | 9 | 2 | 0 |"
    )


def test_a_fault_without_a_cause_is_an_error() -> None:
    with pytest.raises(SystemExit, match="'gremlins' is caused"):
        reliability.faults([{"fault": "gremlins"}])


def test_the_page_lists_faults_that_were_survived_in_time() -> None:
    rows = table("faults")
    assert len(rows) > 15
    for row in rows:
        assert row["how it is caused"] == reliability.cause(row["fault"])
        assert row["lost"] in ("0", "–")
        if "–" not in (row["bound, s"], row["recovery, s"]):
            assert float(row["recovery, s"]) <= float(row["bound, s"])


def test_the_page_has_a_soak_of_two_hundred_faults_in_which_nothing_was_lost() -> None:
    assert sum(int(row["times"]) for row in table("soak")) >= 200
    [figures] = re.findall(r"^\| messages \|(.*)\|$", PAGE, re.MULTILINE)
    [heads] = re.findall(r"^\|  \| sent \|(.*)\|$", PAGE, re.MULTILINE)
    names = ["sent", *(name.strip() for name in heads.split("|"))]
    ledger = dict(zip(names, map(int, figures.split("|")), strict=True))
    assert ledger["confirmed"] > 10_000
    assert ledger["lost"] == 0 and ledger["duplicated, unmarked"] == 0
