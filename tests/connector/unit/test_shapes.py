"""What a handler may be, in the harness."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mq_connector import RequestError
from mq_connector.config import Limits
from mq_connector.handlers import typed
from mq_connector.testing import Harness, harness

from ..shapes import SCENARIOS, AsyncRefusing, Refusing, Scenario, Shape


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_the_harness_does_with_each_handler_what_the_table_says(scenario: Scenario) -> None:
    service = scenario.service()
    with Harness(service.handle_api_input, limits=Limits(rejected=scenario.rejected)) as harness:
        outcome = harness.send(scenario.request)
        while outcome.settled == "requeue":
            outcome = harness.send_again()
    assert outcome.replies == [{**each, "message_id": "message-1"} for each in scenario.replies]
    assert outcome.settled == ("dead-letter" if scenario.is_dead else "ack")
    assert service.log == scenario.log


def test_the_harness_tells_what_a_handler_has_refused_with() -> None:
    for service in (Refusing(), AsyncRefusing()):
        assert isinstance(Harness(service.handle_api_input).send({}).error, RequestError)


def test_a_handler_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Shape):
        async def answer(self, request: dict[Any, Any]) -> Any:
            await asyncio.sleep(600)

    monkeypatch.setattr(harness, "_PATIENCE", 0.05)
    with pytest.raises(AssertionError, match=r"hasn't ended within 0\.05 s"):
        Harness(Endless().handle_api_input).send({})


def test_of_what_async_handlers_have_answered_nothing_is_kept() -> None:
    class Echo(Shape):
        async def answer(self, request: dict[Any, Any]) -> Any:
            return {"text": "a long one"}

    service = Echo()
    Harness(service.handle_api_input).send({})
    known = len(typed.readers)
    for _ in range(3):
        Harness(service.handle_api_input).send({})
    assert len(typed.readers) == known
