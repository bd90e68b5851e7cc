"""The whole service as a process of its own, on a real broker."""

import json
import signal

import pytest

from << cookiecutter.package_name >>.mq_connector import (
    payload,
)

pytestmark = pytest.mark.broker


def test_a_request_is_answered(service):
    asked = service.command("request", json.dumps({"text": "hi"}), "--timeout", "10")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["message_id"]


def test_the_service_is_healthy_while_it_consumes_and_only_then(service):
    assert service.command("health").returncode == 0
    assert service.stop(signal.SIGTERM) == 0
    assert service.command("health").returncode == 1


def test_the_doctor_finds_nothing_wrong(service):
    seen = service.command("doctor")
    assert seen.returncode == 0, seen.stdout
    assert "FAIL" not in seen.stdout


def test_what_goes_over_the_wire_is_what_neon_speaks():
    assert payload.decode(b"InsndGV4dCc6ICdoaSd9Ig==") == {"text": "hi"}
