"""The command line: exit codes, and one clear line where something is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from mq_connector import health
from mq_connector.commands import broker, doctor, request
from mq_connector.commands import command_line as cli
from mq_connector.connection.address import Address
from mq_connector.errors import ConfigurationError, RequestTimeout, StartError
from pika import frame, spec

ADDRESS = Address([pika.ConnectionParameters("127.0.0.1")])


class Service:
    """Just enough of a service."""

    def __init__(self, code: int | Exception = 0) -> None:
        self.service_name = "neon_echo"
        self.code = code
        self.consumers = {"in": SimpleNamespace(queue="neon_echo_input")}

    def address(self) -> Address:
        return ADDRESS

    def serve(self) -> int:
        if isinstance(self.code, Exception):
            raise self.code
        return self.code


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line sets up logging for its whole process."""
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    level, filters = logging.getLogger("pika").level, logging.getLogger("pika.connection").filters
    before = list(filters)
    yield
    logging.getLogger("pika").setLevel(level)
    filters[:] = before


def main(service: Any, *words: str) -> int:
    return cli.main("neon_echo", lambda: service, words)


@pytest.mark.parametrize("words", [[], ["run"]])
@pytest.mark.parametrize("code", [0, 1])
def test_run_serves_and_its_code_is_that_of_the_service(words: list[str], code: int) -> None:
    assert main(Service(code), *words) == code


@pytest.mark.parametrize(
    "words", ["", "run", "doctor", "describe", "dead", "dead --watch", "top", "request {}"]
)
def test_code_of_the_service_that_raises_is_shown_from_its_first_line_on_by_any_command(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = tmp_path / "service.py"
    module.write_text("1 / 0\n")

    def make() -> Any:
        exec(compile("1 / 0\n", module, "exec"))

    assert cli.main("neon_echo", make, words.split()) == 1
    first, *where, error, said = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert where[0] == f'  File "{module}", line 1, in <module>'
    assert error == "ZeroDivisionError: division by zero"
    assert said == f"neon_echo: the service can't be made: {error}"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MQ_STUCK", "1.5"),
        ("MQ_WORKERS", "abc"),
        ("MQ_METRICS_PORT", "0"),
        ("MQ_TRACING", "loud"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_doctor_names_a_setting_with_which_the_service_would_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    def settings() -> Any:
        raise ConfigurationError("no configuration")

    service = Service()
    service.settings = settings  # type: ignore[attr-defined]
    monkeypatch.setenv(variable, value)
    assert main(service, "doctor") == 1
    [said] = [line for line in capsys.readouterr().out.splitlines() if variable in line]
    assert said.startswith(f"FAIL  {variable} is {value!r}; it must be ")


def test_doctor_says_once_what_two_of_its_looks_stumble_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise ConfigurationError(".env: can't be read")

    service = Service()
    service.settings = fail  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor, "check_ranges", fail)
    assert main(service, "doctor") == 1
    assert capsys.readouterr().out.count("FAIL  .env: can't be read\n") == 1


def test_doctor_examines_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setattr(doctor, "examine", lambda examined: 5 if examined is service else 0)
    assert main(service, "doctor") == 5


@pytest.mark.parametrize("words", ["", "run", "doctor", "dead", "request {}"])
def test_a_service_whose_health_check_would_look_for_another_is_told_so(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would serve, and its container would be unhealthy for ever, with no word about why."""
    service = Service()
    service.service_name = "rainy"
    assert main(service, *words.split()) == 1
    assert capsys.readouterr().err == (
        "neon_echo: the service is called 'rainy' in its class, and 'neon_echo' in __main__.py, where its health "
        "check takes the name from: write the same into both, and into SERVICE in rabbitmq/topology.py\n"
    )


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
        self.connection = SimpleNamespace(blocked="")
        assert connection.address is ADDRESS

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
    monkeypatch.setattr(broker, "Client", FakeClient)
    monkeypatch.setattr(request, "why_not", lambda service: "; the broker takes no messages: alarm")
    return FakeClient


def test_request_prints_the_reply_as_json(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(Service(), "request", '{"text": "hi"}', "--timeout", "2.5") == 0
    (queue, data, timeout, reply_queue), closed = asking.asked
    assert (queue, data, timeout, closed) == ("neon_echo_input", {"text": "hi"}, 2.5, "closed")
    assert reply_queue.startswith("neon_echo.reply.")
    assert capsys.readouterr().out == '{"answer": 42}\n'


@pytest.mark.parametrize(
    ("state", "more"),
    [
        ((True, "consuming; process 7: every worker is busy"), "; process 7: every worker is busy"),
        ((True, "consuming"), ""),
        ((False, "no neon_echo is running here"), ""),
    ],
)
def test_request_without_a_reply_says_that_the_service_is_busy(
    asking: type[FakeClient],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: tuple[bool, str],
    more: str,
) -> None:
    asking.reply = RequestTimeout("no reply")
    monkeypatch.setattr(request, "why_not", lambda service: "")
    monkeypatch.setattr(health, "check", lambda name: state)
    assert main(Service(), "request", "{}") == 1
    assert capsys.readouterr().err == f"neon_echo: no reply{more}\n"


def test_what_json_lacks_is_printed_as_text(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    endless = 16**5000  # has more digits than Python writes
    asking.reply = {
        "bytes": b"\xffx",
        "set": {2, 1},
        "tuple": (1, 2, True, None, 1.5),
        "complex": 1j,
        "ü": "ü",
        endless: endless,
        "inf": float("inf"),
    }
    assert main(Service(), "request", "{}") == 0
    output = capsys.readouterr().out
    assert json.loads(output, parse_constant=pytest.fail) == {
        "bytes": "\ufffdx",
        "set": [1, 2],
        "tuple": [1, 2, True, None, 1.5],
        "complex": "1j",
        "ü": "ü",
        hex(endless): hex(endless),
        "inf": "inf",
    }
    assert "ü" in output


def test_what_a_terminal_would_obey_is_escaped_as_json_has_it(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    asking.reply = {"\x1b[2J": "\x9b2J\x7f\u202e\n", "half": "\ud83d", "pair": "😀"}
    assert main(Service(), "request", "{}") == 0
    output = capsys.readouterr().out
    assert output[:-1].isprintable() and "😀" in output
    assert json.loads(output) == asking.reply


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ({"success": False, "error": "ValueError: no", "code": 500}, 1),
        ({"success": False, "error": "no"}, 1),
        ({"success": False, "code": 404}, 1),
        ({"success": False}, 0),
        ({"success": True, "error": "", "code": 200}, 0),
        ({"error": "none of ours", "code": 1}, 0),
        ({}, 0),
    ],
)
def test_a_reply_that_is_an_error_is_printed_and_ends_with_1(
    asking: type[FakeClient],
    capsys: pytest.CaptureFixture[str],
    reply: dict[str, Any],
    code: int,
) -> None:
    asking.reply = reply
    assert main(Service(), "request", "{}") == code
    printed = capsys.readouterr()
    assert (json.loads(printed.out), printed.err) == (reply, "")


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
        ("hi", """must be a JSON object, such as '{"text": "hi"}'"""),
        ("[1]", "must be a JSON object"),
        ("", "isn't valid JSON"),
        ('{"x": 1e999}', "1e999 is too large for a number"),
        ('{"x": [-1e999]}', "-1e999 is too large for a number"),
        ('{"x": NaN}', "there is no NaN in JSON"),
        ('{"x": -Infinity}', "there is no -Infinity in JSON"),
        (f'{{"x": {"9" * 5000}}}', "isn't valid JSON"),
        ("[" * 100_000, "isn't valid JSON"),
        ("\udcff\x1b[2J", "isn't valid JSON"),
    ],
)
def test_a_request_that_is_no_object_is_refused(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    assert main(Service(), "request", text) == 1
    assert words in only_line(capsys)
    assert asking.asked == []


def test_a_request_is_utf_8_whatever_the_locale_takes_it_for(
    asking: type[FakeClient],
) -> None:
    """An ASCII locale gives bytes as halves of pairs, which a service would get as such."""
    text = '{"text": "h\xe9\u20ac"}'
    assert main(Service(), "request", text.encode().decode("ascii", "surrogateescape")) == 0
    assert asking.asked[0][1] == {"text": "h\xe9\u20ac"}
    assert main(Service(), "request", '{"text": "\udce9"}') == 0
    assert asking.asked[2][1] == {"text": "\udce9"}, "which no encoding makes a text of"


def test_a_request_that_nobody_answers_ends_with_one_line(
    asking: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    asking.reply = RequestTimeout("no reply from 'neon_echo_input' within 30 s")
    assert main(Service(), "request", "{}") == 1
    assert only_line(capsys) == (
        "neon_echo: no reply from 'neon_echo_input' within 30 s; the broker takes no messages: alarm\n"
    )
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


def test_what_a_broker_still_sends_on_a_channel_that_it_has_closed_is_no_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three frames for each message in hand that RabbitMQ 4.0 and 4.3 have sent after a consumer timeout."""
    connection = SimpleNamespace(_channels={})
    receive: Any = vars(pika.connection.Connection)["_deliver_frame_to_channel"]

    def deliver() -> None:
        """By pika's own code, for its own words."""
        late = frame.Method(1, spec.Basic.Deliver("tag", 1, True, "", "queue"))
        receive(connection, late)

    with caplog.at_level(logging.CRITICAL):
        deliver()
        assert "unregistered channel 1" in caplog.text
        caplog.clear()
        assert main(Service(), "run") == 0
        deliver()
        assert caplog.text == ""
        logging.getLogger("pika.connection").critical("anything else")
        assert "anything else" in caplog.text


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
        # What would have no effect, as what it is about is missing.
        ["dead", "--rate", "5"],
        ["dead", "--purge", "--rate", "5"],
        ["dead", "--yes"],
        ["dead", "--requeue", "--yes"],
        ["dead", "--watch", "--limit", "5"],
        ["dead", "--watch", "--export", "letters"],
    ],
)
def test_words_that_are_no_command_are_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main("neon_echo", lambda: pytest.fail("made a service"), words)
    assert raised.value.code == 2
    assert "usage: python -m neon_echo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "usage", "error"),
    [
        ("top --interval 2", "[--every EVERY]", "unrecognized arguments: --interval 2"),
        ("dead --queue other", "[--since SINCE]", "unrecognized arguments: --queue other"),
        ("dead --rate 5", "[--since SINCE]", "--rate goes with --requeue"),
        ("run --reloda", "[--reload]", "unrecognized arguments: --reloda"),
        ("request {} --queue q", "[--timeout TIMEOUT] json", "unrecognized arguments: --queue q"),
        ("--reload", "command ...", "unrecognized arguments: --reload"),
        # In full, or a later option makes something else of it.
        ("dead --purg", "[--since SINCE]", "unrecognized arguments: --purg"),
        ("describe --htm", "[--html]", "unrecognized arguments: --htm"),
    ],
)
def test_an_unknown_option_is_answered_with_those_that_the_command_has(
    capsys: pytest.CaptureFixture[str], words: str, usage: str, error: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main("neon_echo", lambda: pytest.fail("made a service"), words.split())
    assert raised.value.code == 2
    said = capsys.readouterr().err
    assert usage in " ".join(said.split()) and said.endswith(f"error: {error}\n")


# ---- where the output goes


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(Service(), "--help")
    assert raised.value.code == 0
    output = capsys.readouterr().out
    assert all(word in output for word in ("run", "request", "doctor", "health"))
