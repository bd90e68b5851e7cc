"""A callback's children die by the signals that they get, and keep nobody from ending."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from baked import BakedProject

from .broker import PASSWORD, Broker
from .peer import Peer
from .process import QUEUE, Service

pytestmark = pytest.mark.timeout(300)

#: What the callback does with children, by the request's key ``do``.
CHILDREN = """
import multiprocessing
import os
import signal
import time

forking = multiprocessing.get_context("fork")


def started(daemon=False):
    child = forking.Process(target=time.sleep, args=(300,), daemon=daemon)
    child.start()
    return child


def terminated():
    child = started()
    child.terminate()
    child.join(60)
    return child.exitcode


def interrupted():
    child = started()
    time.sleep(0.2)
    os.kill(child.pid, signal.SIGINT)
    child.join(60)
    return child.exitcode


def pooled():
    with forking.Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def daemon():
    return started(daemon=True).is_alive()


def waited_for():
    return started().is_alive()
"""


@pytest.fixture
def service(project: BakedProject, tmp_path: Path, broker: Broker) -> Iterator[Service]:
    """A service whose callback has children."""
    (project.package / "children.py").write_text(CHILDREN, encoding="utf-8")
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    answer = 'return {"echo": request}'
    assert answer in text
    does = 'from . import children; return {"did": getattr(children, request["do"])()}'
    file.write_text(text.replace(answer, does), encoding="utf-8")
    made = Service(project, tmp_path, broker.port, PASSWORD)
    yield made
    made.end()


@pytest.mark.parametrize(
    ("does", "did"),
    [("terminated", -signal.SIGTERM), ("interrupted", 1), ("pooled", [1, 2]), ("daemon", True)],
)
def test_a_child_dies_by_its_own_signals_and_the_service_by_its(
    service: Service, asking: Peer, does: str, did: object
) -> None:
    process = service.start()
    assert asking.ask(QUEUE, within=60, do=does)["did"] == did
    process.terminate()
    assert process.wait(60) == 0, service.said


def test_a_child_that_is_waited_for_ends_with_the_second_sigterm(
    service: Service, asking: Peer
) -> None:
    process = service.start()
    assert asking.ask(QUEUE, within=60, do="waited_for")["did"] is True
    process.terminate()
    time.sleep(1.0)
    assert process.poll() is None, "Python waits for its children"
    process.terminate()
    assert process.wait(60) == 1, service.said
