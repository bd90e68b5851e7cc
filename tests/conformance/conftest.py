"""Subjects that run the scenarios while the tests wait for them, brokers, and the book of results."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import incumbent
import pytest
import results
from baked import TEMPLATE, incumbent_python, outside
from connector.functional.broker import PASSWORD, USER, VHOST

from . import generations
from .cases import expected
from .checklist import LINES, scenarios
from .lab import Lab

#: What came of each scenario: git-ignored, made anew by each run; `scripts/compatibility.py` reads it.
RESULTS = TEMPLATE / ".cache" / "conformance.json"
#: Seconds that a test may wait for its scenario, which may have to wait for those before it, tried again.
_PATIENCE = 900
#: Processes of each implementation that work at the same time: the incumbent's pauses are long.
_LANES = {"incumbent": 4, "ours": 1}


Subjects = dict[tuple[str, str], "Subject"]


def python(kind: str) -> str:
    """The Python of an implementation's environment."""
    return incumbent_python() if kind == "incumbent" else sys.executable


@dataclass(frozen=True)
class Outcome:
    """Of a scenario."""

    #: Its traceback, empty where it has passed.
    trouble: str
    #: Of the last try.
    seconds: float
    tries: int = 1


class Subject:
    """A process of one implementation that goes through scenarios in a thread of this one."""

    def __init__(
        self, kind: str, broker: generations.Node, vhost: str, folder: Path, denies: bool
    ) -> None:
        self._kind = kind
        self._broker = broker
        self._folder = folder
        self._denies = denies
        #: Its own, so that what is done to the one subject's connections isn't done to the other's.
        self._vhost = vhost
        self._tasks: SimpleQueue[tuple[str, Future[Outcome]] | None] = SimpleQueue()
        self._results: dict[str, Future[Outcome]] = {}
        self._closed = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def order(self, name: str) -> None:
        """Run this one, too."""
        self._results[name] = Future()
        self._tasks.put((name, self._results[name]))

    def result(self, name: str) -> Outcome:
        """What came of a scenario; waits for it."""
        return self._results[name].result(_PATIENCE)

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._closed = True
        self._tasks.put(None)
        process = self._process
        if process is not None and process.poll() is None:
            assert process.stdin is not None
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                process.stdin.close()  # it ends by itself, unless it hangs
                process.wait(5)
        self._kill()
        self._thread.join(5)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            name, result = task
            if self._closed:
                continue
            result.set_result(self._outcome(name))

    def _outcome(self, name: str) -> Outcome:
        """What it is known to keep, the incumbent may try again: its threads hang when they are stopped."""
        fails = scenarios()[name].incumbent_fails
        allowed = [incumbent.LONGEST] if fails else list(incumbent.tries(self._kind))
        for number, seconds in enumerate(allowed, 1):
            began = time.monotonic()
            try:
                trouble = self._run(name, seconds)
            except (OSError, ValueError) as error:
                trouble = f"the subject has ended: {error!r}"
            outcome = Outcome(trouble, time.monotonic() - began, number)
            if not trouble or number == len(allowed):
                break
            self._kill()  # what has gone wrong may go on
        return outcome

    def _run(self, name: str, seconds: float) -> str:
        if self._process is None or self._process.poll() is not None:
            self._start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        where = {
            "port": self._broker.port,
            "vhost": self._vhost,
            "user": USER,
            "password": PASSWORD,
            "denies": self._denies,
        }
        began = time.monotonic()
        self._say({"scenario": name, "broker": where})
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("RESULT "):
                    text: str = json.loads(line.removeprefix("RESULT "))
                    return text
                if line.startswith("PLEASE "):
                    self._do(line.split()[1])
                    self._say({})
        finally:
            timer.cancel()
        took = time.monotonic() - began
        self._kill()
        return f"no result, and an end after {took:.1f} s of {seconds:g} s"

    def _do(self, what: str) -> None:
        assert what == "close_connections", what
        self._broker.ctl("close_all_connections", "--vhost", self._vhost, "by a test")

    def _start(self) -> None:
        home = self._folder / self._vhost.strip("/")
        home.mkdir(exist_ok=True)
        environment = {
            **outside(),
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "CONFORMANCE_FOLDER": str(home),
            **{f"CONFORMANCE_PYTHON_{kind}": python(kind) for kind in _LANES},
        }
        self._process = subprocess.Popen(
            [python(self._kind), "-B", str(Path(__file__).with_name("subject.py")), self._kind],
            env=environment,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "stderr.log").open("ab"),
            text=True,
        )

    def _say(self, what: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + os.linesep)
        self._process.stdin.flush()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs a broker."""
    for item in items:
        if "subjects" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.broker)
            # It may have to wait for those before it.
            item.add_marker(pytest.mark.timeout(_PATIENCE))


@pytest.fixture(scope="session")
def subjects(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Subjects]]:
    """The implementations at work on one broker, by its name; one broker runs at a time."""
    now = ""
    stack = ExitStack()
    made: Subjects = {}

    def on(broker: str) -> Subjects:
        nonlocal now, made
        if broker != now:
            now, made = broker, {}
            stack.close()
            chosen = [
                (str(item.callspec.params["kind"]), str(item.callspec.params["scenario_name"]))
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and hasattr(item, "callspec")
                and item.callspec.params.get("broker_name") == broker
            ]
            folder = tmp_path_factory.mktemp("conformance")
            made = stack.enter_context(_at_work(broker, chosen, folder))
        if not made:
            pytest.skip(f"the broker {broker} doesn't run here")
        return made

    with stack:
        yield on


@contextmanager
def _at_work(broker: str, chosen: list[tuple[str, str]], folder: Path) -> Iterator[Subjects]:
    vhosts = {(kind, lane): f"/{kind}_{lane}" for kind in _LANES for lane in range(_LANES[kind])}
    with generations.running(broker, list(vhosts.values())) as node:
        denies = broker == generations.DENYING
        every = {key: Subject(key[0], node, vhost, folder, denies) for key, vhost in vhosts.items()}
        made: Subjects = {}
        for kind, lanes in _LANES.items():
            for position, name in enumerate(name for each, name in chosen if each == kind):
                made[kind, name] = every[kind, position % lanes]
                made[kind, name].order(name)
        try:
            yield made
        finally:
            for subject in every.values():
                subject.close()


@pytest.fixture(scope="session")
def book() -> Iterator[list[dict[str, Any]]]:
    """Takes a row for each result; each broker's rows are written down if they are complete."""
    rows: list[dict[str, Any]] = []
    yield rows

    def merge(known: dict[str, Any]) -> dict[str, Any]:
        found = known.get("results", {})
        for name in (generations.INSTALLED, *generations.IN_CONTAINERS):
            of_it = [row for row in rows if row["broker"] == name]
            if len(of_it) == expected(name):
                found[name] = of_it
        versions = {**known.get("versions", {}), **generations.versions}
        return {"versions": versions, "lines": LINES, "results": found}

    results.update(RESULTS, merge, {})


@pytest.fixture(scope="module")
def broker() -> Iterator[Any]:
    """The installed one."""
    with generations.running(generations.INSTALLED, []) as node:
        yield node


@pytest.fixture
def lab(broker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Ours, in this process."""
    monkeypatch.setenv("CONFORMANCE_FOLDER", str(tmp_path))
    where = {"port": broker.port, "vhost": VHOST, "user": USER, "password": PASSWORD}
    lab = Lab("ours", where, lambda what: None)
    yield lab
    lab.close()
