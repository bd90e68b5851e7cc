"""How long the tests will take: what they took before, and how the present run compares.

`tests/durations.json` has the seconds of a test by its file and group, as measured on a busy machine
with two processors, without those that take next to nothing. A run that was neither interrupted nor
cut short writes the same about its own machine into `.cache/`, where the next one looks first: copy
that over the other when tests have been added that take minutes.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import results
from groups import ALONE, UNKNOWN, Controller, key

#: Seconds between two lines that say how much is left.
_EVERY = 20.0
#: Expected seconds that must have passed before the run's own pace counts for anything.
_ENOUGH = 30.0


def read(*files: Path) -> dict[str, float]:
    """Seconds of a test, by `key`; what a later file says counts, and one that can't be read doesn't."""
    known: dict[str, float] = {}
    for file in files:
        try:
            known.update(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return known


class Left:
    """What is left of a run.

    :param expected: seconds of each test
    :param alone: those while which no other runs
    :param workers: processes that run tests at the same time
    """

    def __init__(self, expected: dict[str, float], alone: set[str], workers: int) -> None:
        self._expected = expected
        self._alone = alone
        self._workers = workers
        self._todo = dict.fromkeys(expected)
        self._took = self._had = 0.0

    @property
    def done(self) -> int:
        return len(self._expected) - len(self._todo)

    def tick(self, test: str, took: float) -> None:
        """A test is through, and took so many seconds."""
        if test in self._todo:
            del self._todo[test]
            self._took += took
            self._had += self._expected[test]

    def seconds(self) -> float:
        """How long the rest will take at the pace of what is done."""
        alone = sum(self._expected[test] for test in self._todo if test in self._alone)
        together = sum(self._expected[test] for test in self._todo) - alone
        pace = self._took / self._had if self._had > _ENOUGH else 1.0
        return (together / self._workers + alone) * pace

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds() / 5) * 5, 60)
        left = f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
        return f"[{self.done} of {len(self._expected)} tests done, about {left} left]"


class Estimate:
    """The plugin that says, while tests run in several processes, how much is left.

    :param cache: where the durations go, for the next time
    """

    def __init__(
        self,
        config: pytest.Config,
        controller: Controller,
        seconds: dict[str, float],
        cache: Path,
    ) -> None:
        self._config = config
        self._controller = controller
        self._seconds = seconds
        self._cache = cache
        self._left: Left | None = None
        self._said = time.monotonic()
        self._parts: Counter[str] = Counter()
        self._total: Counter[str] = Counter()
        self._count: Counter[str] = Counter()

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        if self._left is None:
            expected = {test: self._seconds.get(self._key(test), UNKNOWN) for test in ids}
            alone = {test for test in ids if self._controller.groups.get(test) == ALONE}
            self._left = Left(expected, alone, self._config.getoption("numprocesses"))
            self._say()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._left is None:
            return
        self._parts[report.nodeid] += report.duration  # type: ignore[assignment]
        if report.when == "teardown":
            took = self._parts.pop(report.nodeid)
            self._total[self._key(report.nodeid)] += took
            self._count[self._key(report.nodeid)] += 1
            self._left.tick(report.nodeid, took)
        if time.monotonic() - self._said > _EVERY:
            self._say()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not whole or self._left is None or not self._count:
            return
        new = {name: round(self._total[name] / self._count[name], 2) for name in self._count}
        with contextlib.suppress(OSError):  # in a clone of somebody else's, it is only an estimate
            results.update(self._cache, lambda known: dict(sorted({**known, **new}.items())), {})

    def _key(self, test: str) -> str:
        return key(test, self._controller.groups.get(test, ""))

    def _say(self) -> None:
        self._said = time.monotonic()
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and self._config.option.verbose == 0:
            terminal.write(f"\n{self._left}\n")
