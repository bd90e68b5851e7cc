"""Asking over the service's own connection on RabbitMQ 4.3, with and without its transient queues."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from conformance import generations
from waiting import eventually

from .newer import Newer, sharing
from .test_calling import Service

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=sharing("4.3", generations.DENYING))
def broker(request: pytest.FixtureRequest, newer: Callable[[str], Newer]) -> Newer:
    """A container of this generation; another fixture of that name starts the installed one."""
    return newer(request.param)


def test_to_ask_costs_no_connection(broker: Any) -> None:
    """The broker closes the connection on which a transient queue is declared that it denies."""
    other = Service(broker, lambda request: {"n": request["n"]})
    one: Service = Service(broker, lambda request: one.ask(other.queue, request))
    for each in (other, one):
        each.run()
    try:
        eventually(lambda: one.check_health() and other.check_health(), 60)
        link = one.create_mq_connection().link
        began = time.monotonic()
        assert [one.ask(other.queue, {"n": n})["n"] for n in range(20)] == list(range(20))
        assert time.monotonic() - began < 60
        assert one.create_mq_connection().link is link, "another connection took its place"
        assert one.check_health()
    finally:
        for each in (one, other):
            each.stop(1)
