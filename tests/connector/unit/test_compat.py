"""The incumbent's names where no broker is needed; the rest is in tests/conformance."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from mq_connector import payload
from mq_connector.compat import sending
from mq_connector.compat.connector import MQConnector
from mq_connector.compat.utils.network_utils import b64_to_dict, dict_to_b64
from mq_connector.compat.utils.rabbit_utils import create_mq_callback
from mq_connector.compat.utils.thread_utils import RepeatingTimer
from mq_connector.errors import PublishError, StartError
from mq_connector.testing import Harness
from waiting import eventually

USERS = {"users": {"mine": {"user": "me", "password": "x"}}}


def test_a_no_after_a_broker_that_was_down_ends_the_service_with_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connector = MQConnector(USERS, "mine")

    def refuse(*_: Any) -> bool:
        raise StartError("wrong password")

    monkeypatch.setattr(connector, "_mq_wait_for_broker", refuse)
    monkeypatch.setattr(
        connector, "run", lambda: connector._mq_start_later(lambda: None, threading.Event())
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert connector.serve() == 1


def test_the_configuration_is_the_one_that_the_login_uses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shared file of other services lacks our user; the repository's own has it."""
    shared = tmp_path / "config" / "neon" / "mq_config.json"
    shared.parent.mkdir(parents=True)
    shared.write_text(json.dumps({"server": "shared", "users": {"other": {}}}))
    (tmp_path / "mq_config.json").write_text(json.dumps({"server": "own", **USERS}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("NEON_MQ_CONFIG_PATH", raising=False)
    (tmp_path / "config").rename(tmp_path / ".config")
    connector = MQConnector(None, "mine")
    assert connector.config["server"] == "own"
    assert connector.service_config == USERS["users"]["mine"]
    assert connector.settings().hosts[0][0] == "own"


def test_a_service_waits_for_any_of_its_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as second:
        port = second.getsockname()[1]
        servers = f"127.0.0.1:1,127.0.0.1:{port}"
        connector = MQConnector({"server": servers, **USERS}, "mine")
        tried: list[int] = []

        def is_there(_host: str, port: int, _parameters: Any) -> bool:
            tried.append(port)
            return port != 1

        monkeypatch.setattr("mq_connector.compat.connector.is_there", is_there)
        assert connector._mq_wait_for_broker(5, threading.Event())
    assert tried == [1, port]


def test_a_decorated_handler_answers_under_the_id_however_it_is_spelt() -> None:
    sent: list[dict[str, Any]] = []

    class Service(MQConnector):
        @create_mq_callback()
        def handle(self, body: dict[str, Any]) -> dict[str, Any]:
            return {"text": body["text"].upper()}

        def send_message(self, request_data: dict[str, Any], **_: Any) -> str:  # type: ignore[override]
            sent.append(request_data)
            return ""

    body = payload.encode({"text": "hi", "messageID": "m1", "routing_key": "replies"})
    Harness(Service(USERS, "mine").handle).send_body(body)
    assert [each["messageID"] for each in sent] == ["m1"]
    assert sent[0]["context"]["mq"]["message_id"] == "m1"


def test_base64_may_be_text_as_for_the_standard_library() -> None:
    assert b64_to_dict(dict_to_b64({"a": (1, b"x")}).decode()) == {"a": (1, b"x")}


@pytest.mark.parametrize("was_there", [False, True])
def test_an_exchange_that_cannot_be_made_is_told_after_one_attempt(
    monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    tried: list[str] = []
    unused: Any = None
    sender = sending.Sender(unused)

    def publish(_: Any) -> None:
        tried.append("publish")
        if not was_there or len(tried) > 2:
            raise PublishError("404 NOT_FOUND - no exchange 'events' in vhost '/'")

    monkeypatch.setattr(sender, "_publish", publish)
    monkeypatch.setattr(sender, "_run", lambda _: tried.append("make"))
    message = sending.Message.make({"a": 1}, exchange="events")
    if was_there:
        sender.send(message)
    with pytest.raises(PublishError, match="404"):
        sender.send(message)
    assert tried == ["make", "publish", *(["publish", "make", "publish"] if was_there else [])]


def test_a_timer_outlives_what_its_function_raises_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[int] = []

    def refresh() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no words")
        if len(calls) == 2:
            raise SystemExit(3)

    timer = RepeatingTimer(0.01, refresh)
    timer.start()
    try:
        eventually(lambda: len(calls) >= 3, 60)
    finally:
        timer.cancel()
        timer.join(60)
    assert not timer.is_alive()
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.levelname == "ERROR" and "refresh() has failed" in record.message
        assert "it is called again in 0.01 s" in record.message
    assert 'raise ValueError("no words")' in caplog.text
