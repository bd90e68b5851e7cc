"""The command line: exit codes, and one clear line where something is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from mq_connector import client, health
from mq_connector.commands import command_line as cli
from mq_connector.commands import doctor
from mq_connector.errors import ConfigurationError, RequestTimeout, StartError


class Service:
    """Just enough of a service."""

    def __init__(self, code: int | Exception = 0) -> None:
        self.service_name = "neon_echo"
        self.code = code
        connection = SimpleNamespace(another=lambda: "another connection")
        self.consumers = {"in": SimpleNamespace(queue="neon_echo_input", connection=connection)}

    def serve(self) -> int:
        if isinstance(self.code, Exception):
            raise self.code
        return self.code


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line sets up logging for its whole process."""
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    level = logging.getLogger("pika").level
    yield
    logging.getLogger("pika").setLevel(level)


def main(service: Any, *words: str) -> int:
    return cli.main("neon_echo", lambda: service, words)


@pytest.mark.parametrize("words", [[], ["run"]])
@pytest.mark.parametrize("code", [0, 1])
def test_run_serves_and_its_code_is_that_of_the_service(words: list[str], code: int) -> None:
    assert main(Service(code), *words) == code


def test_doctor_examines_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setattr(doctor, "examine", lambda examined: 5 if examined is service else 0)
    assert main(service, "doctor") == 5


@pytest.mark.parametrize(("well", "stream"), [(True, "out"), (False, "err")])
def test_health_says_how_the_service_is_and_makes_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], well: bool, stream: str
) -> None:
    monkeypatch.setattr(health, "check", lambda name: (well, f"{name} is asked"))
    code = cli.main("neon_echo", lambda: pytest.fail("made a service"), ["health"])
    assert code == (0 if well else 1)
    assert getattr(capsys.readouterr(), stream) == "neon_echo is asked\n"


class FakeClient:
    """Answers with what it was asked."""

    asked: list[Any]
    reply: dict[Any, Any] | Exception

    def __init__(self, connection: Any, reply_queue: str) -> None:
        self.reply_queue = reply_queue
        assert connection == "another connection"

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.asked.append("closed")

    def request(self, queue: str, data: Any, timeout: float) -> Any:
        self.asked.append((queue, data, timeout, self.reply_queue))
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    FakeClient.asked = []
    FakeClient.reply = {"answer": 42}
    monkeypatch.setattr(client, "Client", FakeClient)
    return FakeClient


def test_request_prints_the_reply_as_json(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(Service(), "request", '{"text": "hi"}', "--timeout", "2.5") == 0
    (queue, data, timeout, reply_queue), closed = asking.asked
    assert (queue, data, timeout, closed) == ("neon_echo_input", {"text": "hi"}, 2.5, "closed")
    assert reply_queue.startswith("neon_echo.reply.")
    assert capsys.readouterr().out == '{"answer": 42}\n'


def test_what_json_lacks_is_printed_as_text(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    asking.reply = {"bytes": b"\xffx", "set": {2, 1}, "tuple": (1, 2), "complex": 1j, "ü": "ü"}
    assert main(Service(), "request", "{}") == 0
    output = capsys.readouterr().out
    assert json.loads(output) == {
        "bytes": "\ufffdx",
        "set": [1, 2],
        "tuple": [1, 2],
        "complex": "1j",
        "ü": "ü",
    }
    assert "ü" in output


# ---- failures


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{text: hi}", "isn't valid JSON"),
        ("[1]", "must be a JSON object"),
        ("", "isn't valid JSON"),
    ],
)
def test_a_request_that_is_no_object_is_refused(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    assert main(Service(), "request", text) == 1
    assert words in only_line(capsys)
    assert asking.asked == []


def test_a_request_that_nobody_answers_ends_with_one_line(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    asking.reply = RequestTimeout("no reply from 'neon_echo_input' within 30 s")
    assert main(Service(), "request", "{}") == 1
    assert only_line(capsys) == "neon_echo: no reply from 'neon_echo_input' within 30 s\n"
    assert asking.asked[-1] == "closed"


@pytest.mark.parametrize("error", [ConfigurationError("no configuration"), StartError("no vhost")])
def test_a_service_that_cannot_start_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert main(Service(error), "run") == 1
    assert only_line(capsys) == f"neon_echo: {error}\n"


def test_a_level_that_logging_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")
    assert main(Service(), "run") == 1
    assert "LOG_LEVEL is 'loud'" in only_line(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["start"],
        ["request"],
        ["run", "now"],
        ["health", "--verbose"],
        ["request", "{}", "--timeout", "soon"],
        ["request", "{}", "--timeout", "inf"],
        ["request", "{}", "--timeout", "nan"],
        ["request", "{}", "--timeout", "0"],
    ],
)
def test_words_that_are_no_command_are_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main("neon_echo", lambda: pytest.fail("made a service"), words)
    assert raised.value.code == 2
    assert "usage: python -m neon_echo" in capsys.readouterr().err


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(Service(), "--help")
    assert raised.value.code == 0
    output = capsys.readouterr().out
    assert all(word in output for word in ("run", "request", "doctor", "health"))
