"""Spans: what they say of a message, and that nothing is loaded or hooked in where nobody wants them."""

from __future__ import annotations

import builtins
import logging
import subprocess
import sys
from typing import Any

import pika
import pytest
from baked import CONNECTOR
from mq_connector import ConsumerThread, MQConnector
from mq_connector.calling import message
from mq_connector.config import tracing
from mq_connector.errors import ConfigurationError
from mq_connector.tracing import Tracing, spans
from opentelemetry import trace


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> MQConnector:
    """With a consumer that isn't going to start."""
    monkeypatch.setattr(message, "trace_now", message.trace_now)  # to be put back
    found = MQConnector({}, "x")
    found.consumers["one"] = ConsumerThread(pika.ConnectionParameters(), "one", lambda *_: None)
    return found


@pytest.mark.parametrize(
    ("exchange", "names", "destination"),
    [
        ("", ("key",), "key"),
        ("logs", ("key",), "logs:key"),
        ("logs", ("",), "logs"),
        ("", ("",), "amq.default"),
        ("", ("input", "input"), "input"),
        ("logs", ("key", "input"), "logs:key:input"),
        ("logs", ("input", "input"), "logs:input"),
        ("logs", ("", "input"), "logs:input"),
    ],
)
def test_a_destination_is_called_as_the_conventions_for_rabbitmq_have_it(
    exchange: str, names: tuple[str, ...], destination: str
) -> None:
    found = spans.attributes("publish", spans.SEND, exchange, *names)
    assert found["messaging.destination.name"] == destination
    assert found.get("messaging.rabbitmq.destination.routing_key", "") == names[0]


def test_an_id_that_is_no_text_is_none_and_no_id_gives_a_terminal_orders() -> None:
    found: spans.Attributes = {}
    spans.identify(found, 7, b"x")
    assert found == {}
    spans.identify(found, "\x1b[31m" + 2000 * "x", "")
    assert found.keys() == {"messaging.message.id"}
    said = str(found["messaging.message.id"])
    assert "\x1b" not in said and len(said) < 1000


@pytest.mark.parametrize(
    ("text", "wanted"), [("", False), ("0", False), ("false", False), ("1", True), ("true", True)]
)
def test_a_variable_switches_it_on(
    text: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQ_TRACING", text)
    assert tracing() is wanted


def test_what_is_neither_yes_nor_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQ_TRACING", "loud")
    with pytest.raises(ConfigurationError, match="MQ_TRACING is 'loud'"):
        tracing()


def test_without_a_provider_no_consumer_is_watched_and_the_log_says_so(
    service: MQConnector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    with caplog.at_level(logging.WARNING):
        Tracing(service._mq_caller).watch(service.consumers.values())
    assert service.consumers["one"].observer is None
    assert "no provider of tracers" in caplog.text


def test_with_a_provider_consumers_are_watched(
    service: MQConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    Tracing(service._mq_caller).watch(service.consumers.values())
    assert service.consumers["one"].observer is not None


def test_without_the_extra_one_line_names_it(
    service: MQConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = builtins.__import__

    def lacking(name: str, *given: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return really(name, *given, **more)

    for each in ("called", "consumed", "spans"):
        monkeypatch.delitem(sys.modules, f"mq_connector.tracing.{each}", raising=False)
        monkeypatch.delattr(f"mq_connector.tracing.{each}", raising=False)
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ConfigurationError) as refused:
        Tracing(service._mq_caller)
    assert "pip install --editable '.[tracing]'" in str(refused.value)
    assert "make lock" in str(refused.value), "and what is done where there is no pip"
    assert "\n" not in str(refused.value)


def test_nothing_is_loaded_where_nobody_asks_for_spans() -> None:
    code = """
import sys
from mq_connector import MQConnector
service = MQConnector({}, "x")
service.run()
service.stop()
print([name for name in sys.modules if name.startswith(("opentelemetry", "mq_connector.tracing"))])
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=CONNECTOR.parent,
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
