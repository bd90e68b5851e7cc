"""What came of a run, for whoever asks afterwards: `scripts/second_run.py` does."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

#: Where it is written, from the folder of pyproject.toml.
FILE = Path(".cache", "outcome.json")
#: pytest-xdist's phase of a test during which its process has died.
_DIED = "???"


class Outcome:
    """The plugin that writes it: the exit code, and the ids of tests by what became of them.

    A run that didn't get as far leaves no file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, set[str]] = {"failed": set(), "skipped": set(), "died": set()}
        with contextlib.suppress(OSError):
            file.unlink()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = "died" if report.when == _DIED else report.outcome
        if outcome in self._found and not hasattr(report, "wasxfail"):
            self._found[outcome].add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        found = {name: sorted(ids) for name, ids in self._found.items()}
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(exist_ok=True)
            self._file.write_text(json.dumps({"exit": int(exitstatus), **found}, indent=1))
