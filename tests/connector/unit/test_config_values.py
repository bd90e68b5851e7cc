"""Odd values, types and encodings in every place that configures: each works, or is one line without a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from baked import CONNECTOR
from mq_connector.config import Limits, load, look_up
from mq_connector.errors import ConfigurationError

from .test_config import USER, Machine, machine, users

__all__ = ["machine"]

SECRET = "Hunter2-the-Secret"
MANY_DIGITS = "9" * 5000
#: Python turns no longer text into a number, and no larger number into a text (CVE-2020-10735).
BEYOND = int("9" * 4000) ** 2


def refused(act: Callable[[], object]) -> str:
    """The message of a refusal: one line, that could be shown to anybody."""
    with pytest.raises(ConfigurationError) as raised:
        act()
    message = str(raised.value)
    assert len(message.splitlines()) == 1 and len(message) < 400
    assert message.isprintable()
    assert SECRET not in message
    return message


def configured(machine: Machine, **content: Any) -> Callable[[], object]:
    machine.write(machine.work / "mq_config.json", {**users(), **content})
    return lambda: load("echo")


# ---- numbers


@pytest.mark.parametrize(
    "port",
    [
        True,
        False,
        0,
        -1,
        65536,
        5672.0,
        5672.5,
        1e999,
        -1e999,
        float("nan"),
        10**30,
        "",
        "5672.0",
        "1e3",
        "0x1628",
        "٥٦٧٢",
        " 5672",
        MANY_DIGITS,
        SECRET,
        [5672],
        {"a": 1},
        {},
        [],
    ],
    ids=lambda value: str(value)[:12],
)
@pytest.mark.parametrize("way", ["file", "handed over"])
def test_a_port_is_a_whole_number_or_refused(machine: Machine, port: Any, way: str) -> None:
    act = configured(machine, port=port)
    if way == "handed over":
        act = lambda: load("echo", {**users(), "port": port})  # noqa: E731
    if port == "":  # as good as none
        act()
    else:
        assert "port (MQ_PORT) is " in refused(act)


@pytest.mark.parametrize("port", [5672, "5672", "05672", None])
def test_a_port_may_be_a_number_or_its_digits(machine: Machine, port: Any) -> None:
    assert load("echo", {**users(), "port": port}).hosts == (("localhost", 5672),)


@pytest.mark.parametrize("port", [BEYOND, date(2026, 1, 1), b"5672", object()], ids=type)
def test_a_port_of_a_type_that_no_file_has_is_refused(machine: Machine, port: Any) -> None:
    assert "port (MQ_PORT) is " in refused(lambda: load("echo", {**users(), "port": port}))


def test_a_file_with_a_number_without_end_is_one_line(machine: Machine) -> None:
    machine.write(machine.work / "mq_config.json", f'{{"port": {MANY_DIGITS}}}')
    assert "too many digits" in refused(lambda: load("echo"))


NUMBERS = ["MQ_WORKERS", "MQ_PREFETCH", "MQ_MAX_BODY", "MQ_MAX_DEPTH", "MQ_PORT"]


def read_number(variable: str) -> object:
    return load("echo", users()) if variable == "MQ_PORT" else Limits.from_environment()


@pytest.mark.parametrize("variable", NUMBERS)
@pytest.mark.parametrize(
    "text", [MANY_DIGITS, "1e3", "0x10", "٥", "1_000", "+5", " 5", "-0", "\udce9", "5\n", SECRET]
)
def test_a_variable_that_is_no_number_is_refused(
    machine: Machine, variable: str, text: str
) -> None:
    machine.set(**{variable: text})
    assert variable in refused(lambda: read_number(variable))


@pytest.mark.parametrize("variable", NUMBERS)
@pytest.mark.parametrize("text", [MANY_DIGITS, "' 5'", '"5\\n"', SECRET])
def test_a_setting_in_dotenv_that_is_no_number_is_refused(
    machine: Machine, variable: str, text: str
) -> None:
    machine.write(machine.work / ".env", f"{variable}={text}\n")
    assert variable in refused(lambda: read_number(variable))


# ---- credentials


@pytest.mark.parametrize("key", ["username", "password"])
@pytest.mark.parametrize(
    "value",
    [5, 0, 5.5, True, False, [], ["x"], {}, {"a": SECRET}, "\ud800", f"{SECRET}\udfff", "a\0b"],
    ids=repr,
)
def test_a_name_or_password_that_is_no_text_is_refused(
    machine: Machine, key: str, value: Any
) -> None:
    act = configured(machine, users={"echo": {**USER, key: value}})
    assert f"users.echo.{key} (MQ_{key.upper()}) " in refused(act)


@pytest.mark.parametrize("key", ["username", "password"])
def test_a_variable_that_is_not_utf_8_is_refused(machine: Machine, key: str) -> None:
    machine.set(**{f"MQ_{key.upper()}": f"{SECRET}\udce9"})  # as Python takes in a byte of Latin-1
    assert f"users.echo.{key} (MQ_{key.upper()}) " in refused(configured(machine))


def test_a_pair_of_surrogates_in_json_is_one_character(machine: Machine) -> None:
    machine.write(
        machine.work / "mq_config.json",
        r'{"users": {"echo": {"user": "a", "password": "\ud83d\ude80"}}}',
    )
    assert load("echo").password == "\U0001f680"


# ---- hosts


@pytest.mark.parametrize(
    "server",
    [
        f"u:{SECRET}",
        f"a,u:{SECRET}",
        f"u:{SECRET}@host",
        f"amqp://u:{SECRET}@host/v",
        "host:",
        ":5672",
        "host:0",
        "host:70000",
        f"host:{MANY_DIGITS}",
        "host:1e3",
        "two words",
        "a\tb",
        "a\nb",
        "a\0b",
        "\ud800",
        "\udce9",
        "h" * 64,
        "a..b",
        "[]:5672",
        "[]",
        ["ok", f"u:{SECRET}"],
        [],
        True,
        5,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_server_that_cant_be_one_is_refused_and_not_repeated(
    machine: Machine, server: Any
) -> None:
    assert "server" in refused(lambda: load("echo", {**users(), "server": server}))


@pytest.mark.parametrize("server", ["fe80::1%eth0", "b\xfccher.example", "localhost.", "a_b-c.d"])
def test_a_server_may_be_any_name_that_can_be_looked_up(machine: Machine, server: str) -> None:
    assert load("echo", {**users(), "server": server}).hosts == ((server, 5672),)


# ---- TLS


@pytest.mark.parametrize(
    "tls",
    [
        1,
        "yes",
        None,
        [],
        {"ca": 5},
        {"ca": True},
        {"key": ["x"]},
        {"cert": "a\0b"},
        {"verify": 1},
        {"verify": "false"},
        {"verify": None},
        {"insecure": True},
        {SECRET: 1},
        {5: 5},
    ],
    ids=repr,
)
def test_tls_of_the_wrong_type_is_refused(machine: Machine, tls: Any) -> None:
    assert "tls" in refused(lambda: load("echo", {**users(), "tls": tls}))


FILES = {"MQ_TLS_CA": "ca.pem", "MQ_TLS_CERT": "cert.pem", "MQ_TLS_KEY": "key.pem"}


@pytest.mark.parametrize("variable", FILES)
@pytest.mark.parametrize("more", [{}, {"MQ_TLS": ""}], ids=["unset", "empty"])
def test_files_of_tls_without_tls_are_refused(
    machine: Machine, variable: str, more: dict[str, str]
) -> None:
    """Whoever names them wants TLS, and would send the password in the clear."""
    machine.set(**{variable: FILES[variable]}, **more)
    said = refused(lambda: load("echo", users()))
    assert f"{variable} has no effect without MQ_TLS" in said and "MQ_TLS=true" in said


def test_files_of_tls_may_stay_where_tls_is_turned_off_or_on_in_so_many_words(
    machine: Machine,
) -> None:
    machine.set(**FILES)
    assert load("echo", {**users(), "tls": True}).tls
    assert load("echo", {**users(), "tls": {}}).tls
    assert load("echo", {**users(), "tls": False}).tls is None
    machine.set(MQ_TLS="false")
    assert load("echo", users()).tls is None


@pytest.mark.parametrize(
    ("tls", "variables", "name"),
    [
        ({"key": "key.pem"}, {}, "tls.key"),
        (True, {"MQ_TLS_KEY": "key.pem"}, "MQ_TLS_KEY"),
    ],
    ids=["file", "variable"],
)
def test_a_key_without_its_certificate_is_refused(
    machine: Machine, tls: Any, variables: dict[str, str], name: str
) -> None:
    machine.set(**variables)
    said = refused(lambda: load("echo", {**users(), "tls": tls}))
    assert name in said and "has no effect without" in said


@pytest.mark.parametrize("text", ["maybe", "2", SECRET, f"{SECRET} {SECRET}"])
def test_a_switch_that_is_neither_on_nor_off_is_refused(machine: Machine, text: str) -> None:
    machine.set(MQ_TLS=text)
    assert "MQ_TLS" in refused(lambda: load("echo", users()))


# ---- files


def test_a_byte_order_mark_is_read_over(machine: Machine) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(users()).encode()
    (machine.work / "mq_config.json").write_bytes(content)
    assert load("echo").username == USER["username"]
    (machine.work / ".env").write_bytes(b"\xef\xbb\xbfMQ_PORT=99\n")
    assert load("echo").hosts == (("localhost", 99),)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_one_line_without_what_it_holds(
    machine: Machine, encoding: str
) -> None:
    text = json.dumps({"users": {"echo": {"password": f"{SECRET}\xe9"}}}, ensure_ascii=False)
    (machine.work / "mq_config.json").write_bytes(text.encode(encoding))
    message = refused(lambda: load("echo"))
    assert message.startswith("mq_config.json: isn't UTF-8 (byte ") and "xe9" not in message
    (machine.work / ".env").write_bytes(f"A=1\nMQ_PASSWORD={SECRET}\xe9\n".encode(encoding))
    assert refused(lambda: load("echo")).startswith(".env: line ")


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a": "{SECRET}\n"}}',
        f'{{"a": {SECRET}}}',
        f"{SECRET}",
        f'"{SECRET}',
        f'{{"\\{SECRET}": 1}}',
    ],
)
def test_broken_json_is_named_by_its_place_and_not_repeated(machine: Machine, text: str) -> None:
    machine.write(machine.work / "mq_config.json", text)
    assert "isn't valid JSON" in refused(lambda: load("echo"))


@pytest.mark.parametrize(
    "text",
    [
        f"MQ: {{users: {{echo: {{password: {SECRET}",
        f'MQ: {{users: {{echo: {{password: "{SECRET}\\q"}}}}}}',
        f"a: !!int {SECRET}",
        f"a: !!python/object:{SECRET} 1",
        f"a: !!timestamp {SECRET}",
        f"a: !!float {SECRET}",
        f"a: !!binary {SECRET}\xe9",
        f"? [{SECRET}]\n: 1",
        f"*{SECRET}",
        f"a: {MANY_DIGITS}",
        "[" * 10_000,
        "a: \x01",
        "a: 2026-99-99",
        "\tMQ: 1",
    ],
)
def test_broken_yaml_is_one_line_and_not_repeated(machine: Machine, text: str) -> None:
    pytest.importorskip("yaml")
    machine.write(machine.home / ".config/neon/diana.yaml", text)
    assert "diana.yaml: isn't valid (" in refused(lambda: load("echo"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("port: 5672.0", "port"),
        ("port: yes", "port"),
        ("port: 1:30", "localhost:90"),  # YAML 1.1 counts by sixties
        ("server: 5", "server"),
        ("server: no", "server"),
        ("server: 2026-01-01", "server"),
        ("tls: {ca: no}", "tls"),
    ],
)
def test_what_yaml_makes_of_plain_words_works_or_is_one_line(
    machine: Machine, line: str, said: str
) -> None:
    pytest.importorskip("yaml")
    account = "users: {echo: {user: me, password: a}}"
    machine.write(machine.home / ".config/neon/diana.yaml", f"MQ:\n  {account}\n  {line}\n")
    try:
        [(host, port)] = load("echo").hosts
    except ConfigurationError as error:
        assert said in str(error) and len(str(error).splitlines()) == 1
    else:
        assert said == f"{host}:{port}"


@pytest.mark.parametrize("password", ["12345", "1.5", "yes", "2026-01-01", "[a]", "{a: b}"])
def test_a_password_that_yaml_takes_for_something_else_must_be_quoted(
    machine: Machine, password: str
) -> None:
    pytest.importorskip("yaml")
    file = machine.home / ".config/neon/diana.yaml"
    machine.write(file, f"MQ: {{users: {{echo: {{user: me, password: {password}}}}}}}")
    message = refused(lambda: load("echo"))
    assert "put it in quotes" in message and password not in message
    machine.write(file, f"MQ: {{users: {{echo: {{user: me, password: '{password}'}}}}}}")
    assert load("echo").password == password


def test_yaml_that_holds_itself_is_one_line(machine: Machine) -> None:
    pytest.importorskip("yaml")
    for place in (".neon/diana.yaml", ".config/neon/diana.yaml"):
        machine.write(machine.home / place, "MQ: &mq\n  users: &u {}\n  more: *mq\n")
    assert "has no end" in refused(lambda: look_up("echo", {"HOME": str(machine.home)}))


# ---- a machine without a home


#: Loads before it becomes a user who may not even read this Python.
WITHOUT_A_HOME = """
import os, sys
sys.path.insert(0, sys.argv[2])
from mq_connector.config import load
from mq_connector.errors import ConfigurationError
import encodings.idna, encodings.utf_8_sig, pwd
os.chdir(sys.argv[1])
os.environ.pop("HOME", None)
os.setgroups([]), os.setgid(54321), os.setuid(54321)  # numbers that the system knows nothing of
try:
    print(load("echo").username)
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("there", [True, False])
def test_without_a_home_the_other_places_are_looked_at(there: bool) -> None:
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        if there:
            Path(folder, "mq_config.json").write_text(json.dumps(users()))
        command = [sys.executable, "-B", "-c", WITHOUT_A_HOME, folder, str(CONNECTOR.parent)]
        done = subprocess.run(command, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 1
    own = os.path.join(os.path.realpath(folder), "mq_config.json")
    assert said[0] == USER["username"] if there else f"none of {own} exists" in said[0]


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("MQ_PORT", "x", "is 'x'; it must be a number from 1 to 65535"),
        ("MQ_SERVER", "amqp://h", "holds a URL"),
        ("MQ_SERVER", "h:x", "has something after a colon"),
        ("MQ_SERVER", ",", "is empty"),
    ],
)
def test_a_wrong_variable_is_not_blamed_on_the_file_that_it_overrides(
    machine: Machine, variable: str, text: str, reason: str
) -> None:
    machine.set(**{variable: text})
    said = refused(configured(machine, port=5672))
    assert said.startswith(f"{variable} {reason}")


def test_a_folder_in_the_place_of_the_file_is_no_matter_of_permissions(machine: Machine) -> None:
    (machine.work / "mq_config.json").mkdir()
    assert refused(lambda: load("echo")) == "mq_config.json: can't be read (Is a directory)"
