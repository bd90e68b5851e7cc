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


def test_what_one_message_costs_has_a_table_of_its_own() -> None:
    name = "handler: kills the process, 4.3"
    figures: dict[str, Any] = {"times": 3, "recovery": 2.5, "sent": 150, "processed": 150}
    rows = [{"fault": name, **figures, "duplicated": 1, "dead_letters": 1, "bound": 60.0}]
    assert name not in reliability.faults(rows)
    assert reliability.costs(rows).splitlines()[-1] == (
        f"| {name} | {reliability.cause(name)} | 3 | 2.50 | 150 | 150 | 1 | 1 |"
    )


def test_on_the_page_a_death_costs_one_message_and_an_innocent_none() -> None:
    rows = table("costs")
    for kind, deaths, letters in (
        ("handler: kills the process", 4, "1"),
        ("handler: killed for memory", 4, "1"),
        ("handler: hangs", 4, "1"),
        ("handler: outlives", 20, "0"),
    ):
        found = [row for row in rows if row["fault"].startswith(kind)]
        assert found, kind
        for row in found:
            assert int(row["how often"]) <= deaths
            assert row["dead letters"] == letters and row["answered"] == row["requests"]


def test_every_test_that_the_page_names_is_there() -> None:
    """As ``test_file.py::test_name``, below tests/ or one of its two folders."""
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 50
    folders = [TEMPLATE / "tests", TEMPLATE / "tests" / "connector"]
    for file, name in named:
        [path] = [folder / file for folder in folders if (folder / file).exists()]
        assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file} has no {name}"


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
