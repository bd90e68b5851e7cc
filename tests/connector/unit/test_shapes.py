"""What a handler may be, in the harness."""

from __future__ import annotations

import pytest
from mq_connector.config import Limits
from mq_connector.testing import Harness

from ..shapes import SCENARIOS, Scenario


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
