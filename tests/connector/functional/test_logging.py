"""Whatever logging does, callbacks are called, clients are answered, and the service can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from baked import BakedProject

from .broker import PASSWORD, Broker
from .peer import Peer
from .process import QUEUE, Service
from .test_deaths import edit

pytestmark = pytest.mark.timeout(300)

#: What the callback does, by the request's key ``do``.
TROUBLE = """
import logging
import sys


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Raising(logging.Handler):
    def handle(self, record):
        raise RuntimeError("no handler")


def refuse(record):
    raise RuntimeError("no filter")


def nothing():
    pass


def a_filter():
    for handler in logging.getLogger().handlers:
        handler.addFilter(refuse)


def a_handler():
    logging.getLogger().addHandler(Raising())


def a_closed_stream():
    sys.stderr.close()


def odd():
    raise Odd


def fail():
    raise ValueError("on purpose")
"""


@pytest.fixture
def service(project: BakedProject, tmp_path: Path, broker: Broker) -> Iterator[Service]:
    """A service whose logging a request may break."""
    (project.package / "trouble.py").write_text(TROUBLE, encoding="utf-8")
    edit(project, "from . import trouble; getattr(trouble, request.get('do', 'nothing'))()")
    made = Service(project, tmp_path, broker.port, PASSWORD)
    yield made
    made.end()


@pytest.mark.parametrize("what", ["a_filter", "a_handler", "a_closed_stream"])
def test_a_log_that_raises_costs_no_worker_and_no_stop(
    service: Service, asking: Peer, what: str
) -> None:
    process = service.start()
    assert "echo" in asking.ask(QUEUE, do=what)
    for _ in range(3):
        assert asking.ask(QUEUE, do="fail")["success"] is False, "which is logged"
    assert "echo" in asking.ask(QUEUE)
    assert service.is_healthy()
    process.terminate()
    assert process.wait(60) == 0, service.said


def test_an_exception_that_can_t_be_printed_is_answered_and_logged(
    service: Service, asking: Peer
) -> None:
    process = service.start()
    assert asking.ask(QUEUE, do="odd")["success"] is False
    assert "echo" in asking.ask(QUEUE)
    assert "Odd (which can't be printed)" in service.said
    process.terminate()
    assert process.wait(60) == 0, service.said
