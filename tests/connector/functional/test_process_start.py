"""The generated service's start as a process: it consumes soon, or ends with one line."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from baked import BakedProject
from waiting import eventually

from .broker import LIMITED, PASSWORD, VHOST
from .conftest import Record
from .peer import Peer
from .process import QUEUE, Make, make, unable

__all__ = ["make"]


pytestmark = pytest.mark.timeout(300)


def test_a_wrong_password_ends_it_with_one_line(make: Make, record: Record) -> None:
    service = make(password="wrong secret")
    line = unable(service, service.start(healthy=False), record, "wrong password")
    assert "refuses user 'neon_echo'" in line and "wrong secret" not in line
    doctor = service.command("doctor")
    assert doctor.returncode == 1
    assert "refuses user 'neon_echo'" in doctor.stdout and "wrong secret" not in doctor.stdout


def test_a_configuration_that_is_no_json_ends_it_with_one_line(make: Make) -> None:
    service = make()
    service.config.write_text("{", encoding="utf-8")
    line = unable(service, service.start(healthy=False))
    assert str(service.config) in line and "JSON" in line


def test_settings_out_of_range_end_it_with_one_line(make: Make) -> None:
    service = make()
    line = unable(service, service.start(healthy=False, MQ_WORKERS="many"))
    assert "MQ_WORKERS" in line and "many" in line


def test_an_unknown_vhost_ends_it_with_one_line(
    make: Make, project: BakedProject, record: Record
) -> None:
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"/neon_echo"', '"/nowhere"'), encoding="utf-8")
    service = make()
    line = unable(service, service.start(healthy=False), record, "unknown vhost")
    assert "'/nowhere'" in line


def test_a_queue_that_it_may_not_have_ends_it_with_one_line(
    make: Make, project: BakedProject, record: Record
) -> None:
    file = project.package / "service.py"
    text = file.read_text(encoding="utf-8")
    assert '"/neon_echo"' in text
    file.write_text(text.replace('"/neon_echo"', f'"{VHOST}"'))
    service = make()
    config = json.loads(service.config.read_text(encoding="utf-8"))
    config["users"] = {"neon_echo": {"username": LIMITED, "password": PASSWORD}}
    service.config.write_text(json.dumps(config), encoding="utf-8")
    line = unable(service, service.start(healthy=False), record, "queue forbidden (403)")
    assert "no permission for queue 'neon_echo_input'" in line


def test_without_a_broker_it_waits_unhealthy_and_still_ends_in_order(make: Make) -> None:
    service = make(port=1)
    process = service.start(healthy=False)
    eventually(lambda: "trying again" in service.said)
    assert not service.is_healthy()
    process.terminate()
    assert process.wait(60) == 0, service.said


@pytest.mark.alone
def test_start_to_consuming_takes_a_fraction_of_a_second(
    make: Make, asking: Peer, record: Record
) -> None:
    service = make()
    asking.declare(QUEUE) if not asking.has(QUEUE) else None
    took: list[Any] = []
    for _ in range(3):
        began = time.monotonic()
        process = service.start(healthy=False)
        eventually(lambda: asking.count(QUEUE)[1] == 1, every=0.002)
        took.append(time.monotonic() - began)
        process.terminate()
        assert process.wait(60) == 0
        eventually(lambda: asking.count(QUEUE)[1] == 0)
    record("process start to consuming", bound=1.0, recovery=round(min(took), 3))
    assert min(took) < 1.0
