"""What an operator does on the management pages, through the HTTP API behind them."""

from __future__ import annotations

import base64
import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from local import NoServer
from waiting import eventually

from .broker import PASSWORD, USER, Broker
from .conftest import Record
from .served import Served, blink

pytestmark = pytest.mark.timeout(300)


class Managed(Broker):
    """A node with the management plugin."""

    def api(self, method: str, path: str) -> Any:
        """One request; returns what the answer says, if anything."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management_port}/api/{path}",
            method=method,
            headers={"Authorization": f"Basic {login}", "X-Reason": "the test says so"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@pytest.fixture(scope="module")
def victim() -> Iterator[Managed]:
    """In the place of the one that the other tests harm."""
    try:
        broker = Managed(management=True)
    except NoServer as error:
        pytest.skip(str(error))
    with broker:
        broker.ctl("set_user_tags", USER, "administrator")
        yield broker


def test_connections_closed_through_the_management_api(
    victim: Managed, served: Callable[..., Served], record: Record
) -> None:
    one = served()

    def cause() -> None:
        names = eventually(lambda: [each["name"] for each in victim.api("GET", "connections")])
        for name in names:
            victim.api("DELETE", f"connections/{urllib.parse.quote(name)}")

    blink("connections: closed through the management API (320)", one, record, cause)
