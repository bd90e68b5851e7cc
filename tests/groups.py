"""The suite side by side: which tests stay together, what runs alone, and what comes first.

What waits for brokers runs in several processes at once (pytest-xdist), so nothing may be shared
between two of them that a test breaks. Each process has its own session: its own brokers, its own
folder. Tests that share a module's fixture go to one process, unit tests file by file; any other
test goes wherever is room.

`@pytest.mark.alone` is for what measures, or asks the whole machine for itself: while such a test
runs, nothing else does.
"""

from __future__ import annotations

import fcntl
import re
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: The group of what runs alone.
ALONE = "alone"
#: Seconds that a test takes of which nothing is known.
UNKNOWN = 0.1
#: Keys of what the first process tells the others.
_LOCK, _EXPECTED = "alone_lock", "expected_seconds"


def group(item: pytest.Item) -> str:
    """Whom a test has to be with; empty where it may go by itself.

    A parameter of a shared fixture makes a group of its own: nothing is shared between, say, the
    brokers of two generations.
    """
    if item.get_closest_marker(ALONE):
        return ALONE
    name = item.path.stem.removeprefix("test_")
    shared = sorted(_shared(item))
    if not shared:
        return name if "unit" in item.path.parts else ""
    chosen: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    values = [str(chosen[each]) for each in shared if each in chosen]
    return "-".join(re.sub(r"[^\w.]+", "-", each) for each in (name, *values))


def _shared(item: pytest.Item) -> Iterator[str]:
    """Names of the fixtures that live longer than this test, and shorter than the session."""
    info: Any = getattr(item, "_fixtureinfo", None)
    for name, definitions in info.name2fixturedefs.items() if info else ():
        if definitions and definitions[-1].scope in ("class", "module", "package"):
            yield name


def split(test: str) -> tuple[str, str]:
    """A test's id as it is elsewhere, and its group, which pytest-xdist adds to it; may be empty."""
    name, at, found = test.rpartition("@")
    return (name, found) if at and "]" not in found else (test, "")


def key(test: str) -> str:
    """What a test's duration is noted under: its file, and its group."""
    name, found = split(test)
    file = name.partition("::")[0]
    return f"{file}@{found}" if found else file


def expected(test: str, seconds: Mapping[str, float]) -> float:
    """How long a test will take, by what is noted."""
    return seconds.get(key(test), UNKNOWN)


def longest_first(tests: list[str], seconds: Mapping[str, float]) -> list[int]:
    """The order in which the groups go to the processes: positions of these ids.

    Those that run alone are last, when no other is left that would have to wait for them.
    """
    units = [split(test)[1] or test for test in tests]
    total: Counter[str] = Counter()
    first: dict[str, int] = {}
    for position, (test, unit) in enumerate(zip(tests, units, strict=True)):
        total[unit] += expected(test, seconds)  # type: ignore[assignment]
        first.setdefault(unit, position)

    def key(position: int) -> tuple[bool, float, int, int]:
        unit = units[position]
        return unit == ALONE, -total[unit], first[unit], position

    return sorted(range(len(tests)), key=key)


class Controller:
    """The plugin of the process that starts the others.

    :param seconds: that a test takes, as `estimate.read` has them; decides what comes first
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._folder = tempfile.TemporaryDirectory(prefix="neon-mq-tests-")
        self._deselected = 0

    def pytest_configure_node(self, node: Any) -> None:
        lock = Path(self._folder.name, "alone")
        lock.touch()
        node.workerinput.update({_LOCK: str(lock), _EXPECTED: self._seconds})

    def pytest_testnodedown(self, node: Any) -> None:
        self._deselected = getattr(node, "workeroutput", {}).get("deselected", self._deselected)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Each process has left out the same tests; pytest-xdist says nothing of them."""
        if self._deselected:
            terminalreporter.stats["deselected"] = [None] * self._deselected

    def pytest_unconfigure(self) -> None:
        self._folder.cleanup()


class Worker:
    """The plugin of one of the others."""

    def __init__(self, config: Any) -> None:
        self._output: dict[str, Any] = config.workeroutput
        self._lock = Path(config.workerinput[_LOCK])
        self._seconds: dict[str, float] = config.workerinput[_EXPECTED]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        for item in items:
            if item.get_closest_marker("xdist_group") is None and (found := group(item)):
                item.add_marker(pytest.mark.xdist_group(found))
        result = yield  # pytest-xdist adds the group to the id
        order = longest_first([item.nodeid for item in items], self._seconds)
        items[:] = [items[position] for position in order]
        return result

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._output["deselected"] = self._output.get("deselected", 0) + len(items)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """One that runs alone waits until no other does; before its time limit begins."""
        with _held(self._lock, exclusively=item.get_closest_marker(ALONE) is not None):
            return (yield)


@contextmanager
def _held(lock: Path, exclusively: bool) -> Iterator[None]:
    """Hold a lock that many may share or one has alone; a dead process holds none."""
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH)
        yield
