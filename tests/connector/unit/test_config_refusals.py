"""A configuration that is wrong, unreadable or missing is named in one line, without the password."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mq_connector.config import Settings, load
from mq_connector.connection.address import parameters as parameters_of
from mq_connector.errors import ConfigurationError

from .test_config import PASSWORD, PLACES, USER, Machine, machine, users

__all__ = ["machine"]


def failure(machine: Machine, content: Any) -> str:
    machine.write(machine.work / "mq_config.json", content)
    with pytest.raises(ConfigurationError) as raised:
        load("echo")
    message = str(raised.value)
    assert message.startswith("mq_config.json: ")
    return message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("{", "isn't valid JSON", id="not JSON"),
        pytest.param(json.dumps(users())[:-9], "isn't valid JSON", id="cut short"),
        pytest.param([], "must be a JSON object", id="a list"),
        pytest.param("null", "must be a JSON object", id="null"),
        pytest.param({}, "users.echo.username is missing; add it or set MQ_USERNAME", id="empty"),
        pytest.param({"users": None}, "users.echo.username is missing", id="no users"),
        pytest.param({"users": ["echo"]}, "users.echo.username is missing", id="users are a list"),
        pytest.param(users(other=USER), "users.echo.username is missing", id="another service"),
        pytest.param(users(echo=PASSWORD), "users.echo.username is missing", id="user is a str"),
        pytest.param(
            users(echo={"username": "u"}),
            "users.echo.password is missing; add it or set MQ_PASSWORD",
            id="no password",
        ),
        pytest.param(
            users(echo={"username": "u", "password": 5}),
            "users.echo.password (MQ_PASSWORD) is no text but a int; put it in quotes",
            id="password is int",
        ),
        pytest.param(
            users(echo={"username": ["u"], "password": PASSWORD}), "users.echo.username", id="list"
        ),
        pytest.param({"port": "amqp", **users()}, "port (MQ_PORT) is 'amqp'", id="port is a word"),
        pytest.param({"port": 65536, **users()}, "from 1 to 65535", id="port too high"),
        pytest.param({"port": -1, **users()}, "port (MQ_PORT) is -1", id="port negative"),
        pytest.param({"port": [5672], **users()}, "port (MQ_PORT) is a list", id="port is a list"),
        pytest.param(
            {"server": "a:b", **users()},
            "server (MQ_SERVER) has something after a colon that is no port",
            id="port of a server",
        ),
        pytest.param({"server": 5, **users()}, "server must be a host name", id="server is int"),
        pytest.param(
            {"server": "amqp://broker", **users()}, "server (MQ_SERVER) holds a URL", id="URL"
        ),
        pytest.param({"server": ["a", 5], **users()}, "server must be a host name", id="mixed"),
        pytest.param(
            {"server": {"a": 1}, **users()}, "server must be a host name", id="server dict"
        ),
        pytest.param({"server": " , ", **users()}, "server (MQ_SERVER) is empty", id="only commas"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_key(
    machine: Machine, content: Any, words: str
) -> None:
    message = failure(machine, content)
    assert words in message
    assert "\n" not in message
    assert PASSWORD not in message


def test_bytes_that_are_no_text_are_reported(machine: Machine) -> None:
    (machine.work / "mq_config.json").write_bytes(b'{"users": "\xff\xfe"}')
    with pytest.raises(ConfigurationError, match=r"^mq_config.json: isn't UTF-8 \(byte 12\)"):
        load("echo")


def test_a_path_that_names_no_file_is_reported_though_others_exist(machine: Machine) -> None:
    machine.write(machine.work / "mq_config.json", users())
    machine.set(NEON_MQ_CONFIG_PATH="gone.json")
    with pytest.raises(ConfigurationError, match=r"^gone.json: no such file.*NEON_MQ_CONFIG_PATH"):
        load("echo")


def test_a_file_that_cannot_be_read_is_reported(machine: Machine) -> None:
    (machine.work / "mq_config.json").mkdir()  # root may read everything but this
    with pytest.raises(ConfigurationError, match=r"^mq_config.json: can't be read \(.*directory"):
        load("echo")


def test_without_any_file_all_places_and_the_remedy_are_named(machine: Machine) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load("echo")
    message = str(raised.value)
    for words in [*PLACES[1:], "provision.py", "MQ_USERNAME and MQ_PASSWORD"]:
        assert words.replace("~", str(machine.home)).removeprefix("./") in message
    # Whoever started it elsewhere has one.
    assert str(machine.work / "mq_config.json") in message and "in its own folder" in message
    assert "\n" not in message


def test_a_dotenv_that_cannot_be_read_is_reported(machine: Machine) -> None:
    (machine.work / ".env").write_bytes(b"MQ_SERVER=\xff\xff\n")
    with pytest.raises(ConfigurationError, match=r"^\.env: line 1 isn't UTF-8"):
        load("echo")


@pytest.mark.parametrize("variable", ["MQ_PORT", "MQ_SERVER"])
def test_a_wrong_variable_is_reported_by_its_name(machine: Machine, variable: str) -> None:
    machine.set(MQ_USERNAME="u", MQ_PASSWORD=PASSWORD)
    machine.set(**{variable: "host:port"})
    with pytest.raises(ConfigurationError, match=rf"^{variable} "):
        load("echo")


def test_a_configuration_that_is_handed_over_must_be_a_mapping(machine: Machine) -> None:
    handed: Any = ["users"]
    with pytest.raises(ConfigurationError, match=r"^configuration: must be a JSON object"):
        load("echo", handed)


def test_no_representation_of_settings_shows_the_password() -> None:
    settings = Settings((("a", 1),), "u", PASSWORD, "test")
    assert PASSWORD not in repr(settings)
    assert PASSWORD not in str(settings)
    assert PASSWORD not in repr(parameters_of(settings, "/", "n"))


@pytest.mark.parametrize(
    "server", ["amqp://u:s3cret@host:5672/v", "u:s3cret@host", "ok,u:s3cret@h:1"]
)
def test_a_password_that_was_put_into_the_server_is_not_repeated(server: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("echo", {"server": server, **users()})
    assert "holds a URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_nested_too_deep_is_one_line(machine: Machine) -> None:
    path = machine.home / ".config" / "neon" / "mq_config.json"
    path.parent.mkdir(parents=True)
    path.write_text("[" * 200_000)
    with pytest.raises(ConfigurationError, match="isn't valid JSON") as caught:
        load("echo")
    assert "\n" not in str(caught.value)


def test_a_home_of_somebody_who_does_not_exist_is_one_line(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEON_MQ_CONFIG_PATH", "~nobody-of-that-name/x.json")
    with pytest.raises(ConfigurationError, match="no such file"):
        load("echo")
