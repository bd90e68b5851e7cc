"""A service's life: its start, its end, and what it does now and then."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from baked import CONNECTOR
from mq_connector import ConsumerThread, MQConnector, every
from mq_connector.errors import ConfigurationError, StartError
from mq_connector.handlers.life import Life
from waiting import eventually

#: A program that runs a service whose broker nobody can reach, as `python -m neon_echo` does.
PROGRAM = """
import asyncio, sys, time
sys.path.insert(0, sys.argv[1])
from mq_connector import ConsumerThread, MQConnector
from mq_connector.commands import main
class Echo(MQConnector):
    def __init__(self):
        super().__init__({{"server": "127.0.0.1", "port": 1, "users": {{"echo": {{"username": "u", "password": "p"}}}}}}, "echo")
        self.consumers = {{"q": ConsumerThread(self.create_mq_connection(), "q", print)}}
{body}
sys.exit(main("echo", Echo, sys.argv[2:]))
"""


def program(body: str, tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    code = PROGRAM.format(body="".join(f"    {line}\n" for line in body.splitlines()))
    return subprocess.Popen(
        [sys.executable, "-B", "-c", code, str(CONNECTOR.parent), *words],
        cwd=tmp_path,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


RAISING = """
def on_start(self):
    raise OSError("the model isn't there")
"""
ASYNC_RAISING = """
async def on_start(self):
    await asyncio.sleep(0)
    raise OSError("the model isn't there")
"""
UNREADABLE = """
def answer(self, request: "Nowhere"):
    return {}
"""
UNSUITABLE = """
def answer(self, request: asyncio.Event):
    return {}
"""
NO_CONTEXT = """
def worker_context(self):
    raise OSError("no database")
"""
LEAVING_CONTEXT = """
def worker_context(self):
    raise SystemExit("no model")
"""


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (RAISING, "echo: on_start() has failed: OSError: the model isn't there"),
        (ASYNC_RAISING, "echo: on_start() has failed: OSError: the model isn't there"),
        (UNREADABLE, "the type of Echo.answer()'s request can't be read (name 'Nowhere'"),
        (UNSUITABLE, "Event is nothing that a request can be held against"),
        (NO_CONTEXT, "can't start: worker_context() has failed: OSError: no database"),
        (LEAVING_CONTEXT, "can't start: worker_context() has failed: SystemExit: no model"),
    ],
)
def test_a_start_that_fails_is_told_in_one_line(body: str, line: str, tmp_path: Path) -> None:
    process = program(body, tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    told = [each for each in output.splitlines() if "trying again" not in each]
    assert len(told) == 1 and line in told[0], output


@pytest.mark.parametrize(
    "body",
    [
        "def on_start(self):\n    print('hangs', flush=True)\n    time.sleep(600)",
        "async def on_start(self):\n    print('hangs', flush=True)\n"
        "    try:\n        await asyncio.sleep(600)\n    finally:\n        print('cancelled', flush=True)",
    ],
)
def test_a_start_that_hangs_is_told_by_the_health_check_and_ends_with_a_signal(
    body: str, tmp_path: Path
) -> None:
    process = program(body, tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        asked, _ = program(body, tmp_path, "health").communicate(timeout=60)
        assert "starting: on_start() hasn't returned yet" in asked
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert ("cancelled" in output) == ("async" in body)
    finally:
        process.kill()
        process.wait()


class Service(MQConnector):
    def __init__(self) -> None:
        users = {"echo": {"username": "u", "password": "p"}}
        super().__init__({"server": "127.0.0.1", "port": 1, "users": users}, "echo")
        self.log: list[str] = []


class Unreachable(Service):
    """Its consumer never gets to its broker."""

    def __init__(self) -> None:
        super().__init__()
        self.consumers = {"q": ConsumerThread(self.create_mq_connection(), "q", print)}


def test_on_stop_comes_once_and_only_after_a_start() -> None:
    class Stopping(Service):
        def on_stop(self) -> None:
            self.log.append("stop")

    never = Stopping()
    never.stop(0)
    assert never.log == []
    service = Stopping()
    service.run()
    service.stop(1)
    service.stop(1)
    assert service.log == ["stop"]


def test_a_failing_on_stop_is_logged_and_makes_the_exit_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stopping(Service):
        async def on_stop(self) -> None:
            raise OSError("full")

    service = Stopping()
    service.run()
    service.stop(1)
    assert service._failed
    assert "on_stop() has failed: OSError: full" in caplog.text


def test_an_async_on_stop_has_an_end() -> None:
    class Stopping(Service):
        async def on_stop(self) -> None:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.log.append("cancelled")
                raise

    service = Stopping()
    service.run()
    service.stop(0)
    eventually(lambda: service.log == ["cancelled"], 10)
    assert service._failed


def test_a_failed_start_starts_no_consumer() -> None:
    class Failing(Unreachable):
        def on_start(self) -> None:
            raise OSError("no")

    service = Failing()
    with pytest.raises(StartError, match="OSError: no"):
        service.run()
    assert service.consumers["q"].ident is None


def test_worker_contexts_are_entered_once_in_each_worker_and_left_before_on_stop() -> None:
    entered: list[str] = []

    class Contexts(Unreachable):
        @contextmanager
        def worker_context(self) -> Iterator[None]:
            entered.append(threading.current_thread().name)
            yield
            time.sleep(1.2)  # longer than a worker is waited for that has none
            self.log.append("left")

        def on_stop(self) -> None:
            self.log.append("stop")

    service = Contexts()
    service.run()
    eventually(lambda: entered, 10)
    service.stop(5)
    assert entered == ["consumer-q"]
    assert service.log == ["left", "stop"]


def test_periodic_work_goes_on_whatever_it_raises_and_stops_with_the_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Periodic(Service):
        @every(0.01)
        def refresh(self) -> None:
            self.log.append("x")
            raise [ValueError("y"), SystemExit(3)][self.log.count("x") % 2]

        @every(0.01)
        async def renew(self) -> None:
            await asyncio.sleep(0)
            self.log.append("z")

    service = Periodic()
    service.run()
    eventually(lambda: service.log.count("x") > 3 and service.log.count("z") > 3, 30)
    service.stop(5)
    known = list(service.log)
    time.sleep(0.1)
    assert service.log == known
    assert "refresh(), which is called every 0.01 s, has failed: ValueError: y" in caplog.text
    assert not [each for each in threading.enumerate() if each.name.startswith("every-")]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_periodic_work_never_overlaps_itself(asynchronous: bool) -> None:
    running: list[int] = []
    most: list[int] = []

    def began() -> None:
        running.append(1)
        most.append(len(running))

    class Slow(Service):
        @every(0.001)
        def refresh(self) -> Any:
            if asynchronous:
                return self.work()
            began()
            time.sleep(0.02)
            running.pop()
            return None

        async def work(self) -> None:
            began()
            await asyncio.sleep(0.02)
            running.pop()

    service = Slow()
    service.run()
    eventually(lambda: len(most) > 5, 30)
    service.stop(5)
    assert {*most} == {1}


def test_periodic_work_that_lasts_is_cancelled_at_the_deadline() -> None:
    class Lasting(Service):
        @every(0.001)
        async def refresh(self) -> None:
            try:
                self.log.append("begun")
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.log.append("cancelled")
                raise

    service = Lasting()
    service.run()
    eventually(lambda: service.log, 30)
    service.stop(0.1)
    assert service.log == ["begun", "cancelled"]


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_every_so_many_seconds_has_to_be_a_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="more than 0 s"):
        every(seconds)


def test_a_service_without_any_of_it_starts_nothing() -> None:
    before = threading.active_count()
    service = Service()
    service.run()
    assert threading.active_count() == before
    service.stop(0)
    assert Life(service).around is None


def test_who_needs_neither_async_nor_types_has_no_thread_for_them_and_loads_nothing() -> None:
    code = (
        "import sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "from mq_connector import *\n"
        "from mq_connector.testing import Harness\n"
        "handle = lambda c, m, p, b: respond(c, Request.decode(b, p), lambda data: data)\n"
        "assert Harness(handle).send({}).settled == 'ack'\n"
        "print(threading.active_count(), 'mq_connector.handlers.checks' in sys.modules)\n"
    )
    words = [sys.executable, "-B", "-c", code, str(CONNECTOR.parent)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "1 False\n"


def test_a_type_that_cannot_be_read_is_told_before_the_first_message() -> None:
    class Typed(Service):
        def answer_second(self, request: "Nowhere") -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037
            return {}

    with pytest.raises(ConfigurationError, match=r"Typed\.answer_second\(\)'s request"):
        Typed().run()


def test_what_fails_in_on_start_is_shown_with_debug(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Service):
        def on_start(self) -> None:
            raise OSError("no")

    with caplog.at_level(logging.DEBUG), pytest.raises(StartError):
        Failing().run()
    assert "Traceback" in caplog.text
