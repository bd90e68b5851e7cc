"""Variables that have no effect, and what of the others the log says at the start."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from baked import CONNECTOR
from mq_connector import Connection, ConsumerThread
from mq_connector.commands import command_line
from mq_connector.config import names
from mq_connector.connector import MQConnector
from mq_connector.errors import ConfigurationError
from waiting import eventually

from .fake_broker import PATIENCE, broker
from .members import serve_in_haste

GENERATED = CONNECTOR.parents[2]
SECRET = "s3cret-value"


@pytest.fixture(autouse=True)
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory without `.env`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MQ_WORKER", "MQ_WORKERS"),
        ("MQ_PREFETCHS", "MQ_PREFETCH"),
        ("MQ_PREFTECH", "MQ_PREFETCH"),
        ("MQ_STUK", "MQ_STUCK"),
        ("MQ_METRIC_PORT", "MQ_METRICS_PORT"),
        ("MQ_USER", "MQ_USERNAME"),
        ("MQ_PASS", "MQ_PASSWORD"),
        ("MQ_PASSWD", "MQ_PASSWORD"),
        ("MQ_HOST", "MQ_SERVER"),
        ("mq_workers", "MQ_WORKERS"),
        ("MQ-WORKERS", "MQ_WORKERS"),
        ("MQ_TLS_CERTS", "MQ_TLS_CERT"),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_told_with_that(name: str, meant: str) -> None:
    assert names.mistaken({name: SECRET}) == [f"{name} has no effect; did you mean {meant}?"]


@pytest.mark.parametrize(
    "name",
    [
        *sorted(names.READ | names.COMPOSE),
        # IBM MQ's, in images and on machines.
        *["MQSERVER", "MQ_INSTALLATION_PATH", "MQ_QMGR_NAME", "MQ_CONNECT_TYPE", "MQ_JRE_PATH"],
        *["MQ_APP_PASSWORD", "MQ_ADMIN_PASSWORD", "MQ_ENABLE_METRICS", "MQ_DATA_PATH"],
        # Those of a service that is called mq, from Kubernetes.
        *["MQ_SERVICE_HOST", "MQ_SERVICE_PORT", "MQ_PORT_5672_TCP", "MQ_PORT_5672_TCP_ADDR"],
        *["MQ_PORT_5672_TCP_PORT", "MQ_PORT_5672_TCP_PROTO", "MQ_SERVICE_PORT_AMQP"],
        *["MQ_", "MQ", "WORKERS", "RABBITMQ_USER", "MQ_WORKER\nMQ_PORT", "MQ_X"],
    ],
)
def test_what_others_call_theirs_is_none_of_our_business(name: str) -> None:
    assert names.mistaken({name: SECRET}) == []


def test_every_variable_that_the_repository_names_is_known() -> None:
    files = [*CONNECTOR.rglob("*.py"), GENERATED / ".env.example", *GENERATED.glob("compose*.yaml")]
    told = {name for file in files for name in re.findall(r"\bMQ_[A-Z_]*[A-Z]\b", file.read_text())}
    assert told - set(names._GUESSES) == (names.READ | names.COMPOSE)


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_mistaken_name_is_one_warning_at_the_start_and_a_note_of_doctor(
    where: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if where == ".env":
        (work / ".env").write_text(f"MQ_WORKER={SECRET}\n")
    else:
        monkeypatch.setenv("MQ_WORKER", SECRET)
    said = "MQ_WORKER has no effect; did you mean MQ_WORKERS?"
    service = MQConnector({"users": {}}, "echo")
    service.run()
    service.stop()
    assert [each.levelname for each in caplog.records if each.getMessage() == said] == ["WARNING"]
    assert command_line.main("echo", lambda: service, ["doctor"]) == 1
    output = capsys.readouterr().out
    assert output.count(f"note  {said}\n") == 1
    assert SECRET not in output + caplog.text


def test_workers_for_whom_the_broker_sends_nothing_are_one_warning_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MQ_WORKERS", "4")
    monkeypatch.setenv("MQ_PREFETCH", "2")
    with broker(serve_in_haste) as server:
        consumer = ConsumerThread(Connection([server.parameters()]), "input", lambda *_: None)
        consumer.start()
        eventually(lambda: "never have anything to do" in caplog.text, PATIENCE)
        consumer.stop(0)
        consumer.join(PATIENCE)
    [warning] = [
        each for each in caplog.records if "never have anything to do" in each.getMessage()
    ]
    assert warning.levelname == "WARNING"
    assert warning.message.startswith("'input': 2 of 4 workers")


@pytest.mark.parametrize(
    ("variable", "value", "module", "extra"),
    [
        ("MQ_METRICS_PORT", "9400", "mq_connector.metrics.collector", "prometheus_client"),
        ("MQ_TRACING", "true", "mq_connector.tracing.spans", "opentelemetry"),
    ],
)
def test_doctor_names_what_a_setting_needs_and_isnt_installed(
    variable: str,
    value: str,
    module: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)  # as where it isn't installed
    monkeypatch.delitem(sys.modules, module, raising=False)
    package, _, name = module.rpartition(".")
    monkeypatch.delattr(importlib.import_module(package), name, raising=False)
    service: Any = MQConnector({"users": {}}, "echo")
    for is_set in (False, True):
        if is_set:
            monkeypatch.setenv(variable, value)
        command_line.main("echo", lambda: service, ["doctor"])
        lines = [each for each in capsys.readouterr().out.splitlines() if variable in each]
        assert len(lines) == is_set
    assert lines[0].startswith(f"note  {variable} is set, but ")
    assert "isn't installed: pip install --editable '.[" in lines[0]
    with pytest.raises(ConfigurationError, match="isn't installed"):
        (service._serve_metrics if extra == "prometheus_client" else service.run)()
