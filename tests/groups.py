"""The suite side by side: which tests stay together, what runs alone, and what comes first.

What waits for brokers runs in several processes at once (pytest-xdist), so nothing may be shared
between two of them that a test breaks. Each process has its own session: its own brokers, its own
folder. Tests that share a module's fixture go to one process, unit tests file by file; any other
test goes wherever is room.

`@pytest.mark.alone` is for what neighbours would spoil: while such a test runs, nothing else does, so
there are few. What measures within a bound of seconds bears them; see `connector/functional/conftest.py`.

pytest-xdist's own `--dist loadgroup` would write a test's group into its id, which pytest 9 no
longer lets it; here the first process learns the groups from a file, and ids stay as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: The group of what runs alone.
ALONE = "alone"
#: Seconds that a test takes of which nothing is known.
UNKNOWN = 0.1
#: Keys of what the first process tells the others.
_FOLDER, _SECONDS = "groups_folder", "groups_seconds"


def group(item: pytest.Item) -> str:
    """Whom a test has to be with; empty where it may go by itself.

    A parameter of a shared fixture makes a group of its own: nothing is shared between, say, the
    brokers of two generations. The mark `xdist_group` names another.
    """
    if item.get_closest_marker(ALONE):
        return ALONE
    if named := item.get_closest_marker("xdist_group"):
        return str(named.args[0])
    name = item.path.stem.removeprefix("test_")
    lasting = sorted(shared(item))
    if not lasting:
        return name if "unit" in item.path.parts else ""
    chosen: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    values = [str(chosen[each]) for each in lasting if each in chosen]
    return "-".join(re.sub(r"[^\w.]+", "-", each) for each in (name, *values))


def shared(item: pytest.Item) -> Iterator[str]:
    """Names of the fixtures that live longer than this test, and shorter than the session."""
    info: Any = getattr(item, "_fixtureinfo", None)
    for name, definitions in info.name2fixturedefs.items() if info else ():
        if definitions and definitions[-1].scope in ("class", "module", "package"):
            yield name


def key(test: str, group: str) -> str:
    """What a test's duration is noted under: its file, and its group."""
    file = test.partition("::")[0]
    return f"{file}@{group}" if group else file


def longest_first(
    tests: Sequence[str], groups: Mapping[str, str], seconds: Mapping[str, float]
) -> list[int]:
    """The order in which the groups go to the processes: positions of these ids.

    Those that run alone are last, when no other is left that would have to wait for them.

    :param groups: of those that have one
    :param seconds: of a test, by its `key`
    """
    units = [groups.get(test) or test for test in tests]
    total: Counter[str] = Counter()
    first: dict[str, int] = {}
    for position, (test, unit) in enumerate(zip(tests, units, strict=True)):
        took = seconds.get(key(test, groups.get(test, "")), UNKNOWN)
        total[unit] += took  # type: ignore[assignment]
        first.setdefault(unit, position)

    def order(position: int) -> tuple[bool, float, int, int]:
        unit = units[position]
        return unit == ALONE, -total[unit], first[unit], position

    return sorted(range(len(tests)), key=order)


class _Sharing(LoadScopeScheduling):  # type: ignore[misc]
    """Gives groups to processes, and outlives one that dies.

    pytest-xdist would have the next process run once more what killed the last, and would wait for ever
    for one whose last test comes after all others have ended.
    """

    def __init__(self, config: pytest.Config, log: Any, controller: Controller) -> None:
        super().__init__(config, log)
        self._controller = controller

    def _split_scope(self, nodeid: str) -> str:
        return self._controller.groups.get(nodeid) or nodeid

    def remove_node(self, node: Any) -> str | None:
        units: dict[str, dict[str, bool]] = self.assigned_work.get(node, {})
        todo = ((unit, test) for unit in units.values() for test, done in unit.items() if not done)
        unit, culprit = next(todo, ({}, None))
        if culprit is not None:
            unit[culprit] = True
        for name in [name for name, unit in units.items() if all(unit.values())]:
            del units[name]
        super().remove_node(node)
        return culprit

    def schedule(self) -> None:
        again = self.collection is not None
        super().schedule()
        if again:
            # A process begins its last test when it knows that there is none behind it.
            for node in list(self.nodes):
                self._reschedule(node)


class Controller:
    """The plugin of the process that starts the others.

    :param seconds: of a test, by its `key`; decides what comes first
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._temporary = tempfile.TemporaryDirectory(prefix="neon-mq-tests-")
        #: Where processes leave word for each other.
        self.folder = Path(self._temporary.name)
        self._groups: dict[str, str] = {}
        self._deselected = 0

    @property
    def groups(self) -> dict[str, str]:
        """Of each test that has one, by its id; empty until one process has found the tests."""
        if not self._groups:
            file = self.folder / "groups.json"
            self._groups = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return self._groups

    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput.update({_FOLDER: str(self.folder), _SECONDS: self._seconds})

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Give each group to one process, in the order in which the tests were found."""
        if config.getoption("dist") != "loadgroup":
            return None  # the command wants another way of sharing out
        config.option.loadscopereorder = False  # by the number of tests, which says little
        return _Sharing(config, log, self)

    def pytest_testnodedown(self, node: Any) -> None:
        self._deselected = getattr(node, "workeroutput", {}).get("deselected", self._deselected)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Each process has left out the same tests; pytest-xdist says nothing of them."""
        if self._deselected:
            terminalreporter.stats["deselected"] = [SimpleNamespace()] * self._deselected

    def pytest_unconfigure(self) -> None:
        self._temporary.cleanup()


class Worker:
    """The plugin of one of the others."""

    def __init__(self, config: Any) -> None:
        self._output: dict[str, Any] = config.workeroutput
        self._folder = Path(config.workerinput[_FOLDER])
        self._seconds: dict[str, float] = config.workerinput[_SECONDS]
        (self._folder / f"worker.{os.getpid()}").touch()
        self._interrupted = False
        signal.signal(signal.SIGINT, self._interrupt)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """One imports the tests before the others do, who then find the bytecode that it has made."""
        with (self._folder / "collection.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_SH)
            return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put what takes longest first, and tell the first process who stays together."""
        groups = {item.nodeid: found for item in items if (found := group(item))}
        order = longest_first([item.nodeid for item in items], groups, self._seconds)
        items[:] = [items[position] for position in order]
        # Each process finds the same.
        new = self._folder / f"groups.{os.getpid()}"
        new.write_text(json.dumps(groups), encoding="utf-8")
        new.replace(self._folder / "groups.json")

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._output["deselected"] = self._output.get("deselected", 0) + len(items)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """One that runs alone waits until no other does; before its time limit begins."""
        alone = item.get_closest_marker(ALONE) is not None
        with _held(self._folder / "alone.lock", exclusively=alone):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Generator[None, object, object]:
        """Half a surrogate pair in what a test has logged would end them all: reports travel in UTF-8."""
        return _escaped((yield))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """The first interrupt ends the tests; no further one ends their cleaning up."""
        if not self._interrupted:
            self._interrupted = True
            with contextlib.suppress(OSError):
                (self._folder / f"interrupted.{os.getpid()}").touch()
            raise KeyboardInterrupt


def _escaped(report: Any) -> Any:
    """A report's texts, in whatever they are, with an escape for what UTF-8 can't carry."""
    if isinstance(report, str):
        return report.encode(errors="backslashreplace").decode()
    if isinstance(report, dict):
        return {_escaped(key): _escaped(each) for key, each in report.items()}
    if isinstance(report, (list, tuple)):
        return type(report)(map(_escaped, report))
    return report


@contextlib.contextmanager
def _held(lock: Path, exclusively: bool) -> Iterator[None]:
    """Hold a lock that many may share or one has alone; a dead process holds none."""
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH)
        yield
