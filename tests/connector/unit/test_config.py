"""Where the configuration is found, what overrides it, and what is said when it is wrong."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest
from mq_connector import config
from mq_connector.config import Limits, Settings, load, places
from mq_connector.connection.address import parameters as parameters_of
from mq_connector.errors import ConfigurationError

PASSWORD = "s3cret-Passw0rd"
USER = {"username": "echo_user", "password": PASSWORD}


@dataclass
class Machine:
    """A home and a working directory with nothing in them."""

    home: Path
    work: Path
    environment: pytest.MonkeyPatch

    def write(self, path: Path, content: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.environment.setenv(name, value)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in list(os.environ):
        if name.startswith(("MQ_", "NEON_", "XDG_")):
            monkeypatch.delenv(name)
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return Machine(home, work, monkeypatch)


def users(**of: Any) -> dict[str, Any]:
    return {"users": of or {"echo": USER}}


#: Every place, in the order in which they count, under a home `~` and a working directory `.`.
PLACES = [
    "./named.json",
    "~/.config/neon/mq_config.json",
    "~/.local/share/neon/credentials.json",
    "./mq_config.json",
]


def resolve(machine: Machine, place: str) -> Path:
    root, _, rest = place.partition("/")
    return (machine.home if root == "~" else machine.work) / rest


# ---- places


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in MQ"])
@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_is_found_in_each_place(
    machine: Machine, place: str, wrapped: bool
) -> None:
    content = {"server": "broker", "port": 5673, **users()}
    path = machine.write(resolve(machine, place), {"MQ": content} if wrapped else content)
    if place == PLACES[0]:
        machine.set(NEON_MQ_CONFIG_PATH=str(path))
    settings = load("echo")
    assert settings.hosts == (("broker", 5673),)
    assert (settings.username, settings.password) == ("echo_user", PASSWORD)
    assert Path(settings.source).resolve() == path.resolve()


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_the_first_place_counts(machine: Machine, first: int) -> None:
    for place in PLACES[first:]:
        path = machine.write(
            resolve(machine, place), {"server": place.lstrip("~./").replace("/", "_"), **users()}
        )
        if place == PLACES[0]:
            machine.set(NEON_MQ_CONFIG_PATH=str(path))
    assert load("echo").hosts[0][0] == PLACES[first].lstrip("~./").replace("/", "_")


def test_the_configuration_folder_can_be_elsewhere(machine: Machine) -> None:
    machine.set(XDG_CONFIG_HOME=str(machine.work / "config"))
    machine.write(machine.home / ".config/neon/mq_config.json", {"server": "wrong", **users()})
    machine.write(machine.work / "config/neon/mq_config.json", {"server": "right", **users()})
    assert load("echo").hosts[0][0] == "right"


def test_a_file_of_other_services_does_not_hide_ours(machine: Machine) -> None:
    machine.write(machine.home / ".config/neon/mq_config.json", users(other=USER))
    ours = machine.write(machine.work / "mq_config.json", users())
    assert Path(load("echo").source).resolve() == ours


def test_a_file_that_was_pointed_to_counts_whatever_it_holds(machine: Machine) -> None:
    named = machine.write(machine.work / "named.json", users(other=USER))
    machine.write(machine.work / "mq_config.json", users())
    machine.set(NEON_MQ_CONFIG_PATH=str(named))
    with pytest.raises(ConfigurationError, match=r"named.json: users.echo.username is missing"):
        load("echo")


def test_a_home_in_the_path_that_names_a_file_is_expanded(machine: Machine) -> None:
    machine.write(machine.home / "mine.json", users())
    machine.set(NEON_MQ_CONFIG_PATH="~/mine.json")
    assert load("echo").username == "echo_user"


def test_a_configuration_can_be_handed_over(machine: Machine) -> None:
    machine.write(machine.work / "mq_config.json", {"server": "wrong", **users()})
    for content in (users(), {"MQ": users()}):
        settings = load("echo", content)
        assert settings.hosts == (("localhost", 5672),)
        assert settings.source == "configuration"


def test_places_are_listed_in_the_order_in_which_they_count() -> None:
    env = {"NEON_MQ_CONFIG_PATH": "/a.json", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}
    assert [str(place) for place in places(env)] == [
        "/a.json",
        "/x/neon/mq_config.json",
        "/h/.local/share/neon/credentials.json",
        "mq_config.json",
    ]


# ---- values


@pytest.mark.parametrize(
    ("user", "username"),
    [
        ({"username": "a", "password": PASSWORD}, "a"),
        ({"user": "b", "password": PASSWORD}, "b"),
        ({"username": "a", "user": "b", "password": PASSWORD}, "a"),
        ({"username": "", "user": "b", "password": PASSWORD}, "b"),
    ],
)
def test_the_user_is_named_as_documented_or_as_the_incumbent_reads_it(
    machine: Machine, user: dict[str, str], username: str
) -> None:
    assert load("echo", users(echo=user)).username == username


@pytest.mark.parametrize(
    ("server", "hosts"),
    [
        ("broker", [("broker", 5673)]),
        ("broker:1234", [("broker", 1234)]),
        ("a,b:2,c", [("a", 5673), ("b", 2), ("c", 5673)]),
        (" a , b ,", [("a", 5673), ("b", 5673)]),
        (["a", "b:2"], [("a", 5673), ("b", 2)]),
        ("192.0.2.1:99", [("192.0.2.1", 99)]),
        ("::1", [("::1", 5673)]),
        ("[::1]", [("::1", 5673)]),
        ("[2001:db8::1]:99", [("2001:db8::1", 99)]),
        (None, [("localhost", 5673)]),
        ("", [("localhost", 5673)]),
    ],
)
def test_servers_are_a_name_a_list_or_names_with_commas_with_ports_of_their_own(
    machine: Machine, server: Any, hosts: list[tuple[str, int]]
) -> None:
    assert load("echo", {"server": server, "port": 5673, **users()}).hosts == tuple(hosts)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MQ_SERVER", "elsewhere", {"hosts": (("elsewhere", 5673),)}),
        ("MQ_SERVER", "a:1,b", {"hosts": (("a", 1), ("b", 5673))}),
        ("MQ_PORT", "99", {"hosts": (("broker", 99),)}),
        ("MQ_USERNAME", "other", {"username": "other"}),
        ("MQ_PASSWORD", "0ther", {"password": "0ther"}),
    ],
)
@pytest.mark.parametrize("source", ["environment", ".env", "both", "empty in environment"])
def test_the_environment_overrides_dotenv_which_overrides_the_file(
    machine: Machine, variable: str, value: str, expected: dict[str, Any], source: str
) -> None:
    machine.write(machine.work / "mq_config.json", {"server": "broker", "port": 5673, **users()})
    before = {"hosts": (("broker", 5673),), "username": "echo_user", "password": PASSWORD}
    if source == "environment":
        machine.set(**{variable: value})
    elif source == ".env":
        machine.write(machine.work / ".env", f"# settings\n{variable}={value}\n")
    elif source == "both":
        machine.set(**{variable: value})
        machine.write(machine.work / ".env", f"{variable}=wrong")
    else:
        machine.set(**{variable: ""})
        machine.write(machine.work / ".env", f"{variable}={value}")
        expected = {}  # an empty variable takes back what .env sets, so the file counts again
    settings = load("echo")
    for name, wanted in {**before, **expected}.items():
        assert getattr(settings, name) == wanted


def test_the_path_of_the_file_can_stand_in_dotenv(machine: Machine) -> None:
    machine.write(machine.work / "sub/mine.json", users())
    machine.write(machine.work / ".env", "NEON_MQ_CONFIG_PATH=sub/mine.json")
    assert load("echo").source == "sub/mine.json"


def test_dotenv_is_not_put_into_the_environment(machine: Machine) -> None:
    machine.write(machine.work / ".env", f"MQ_USERNAME=u\nMQ_PASSWORD={PASSWORD}")
    settings = load("echo")
    assert (settings.username, settings.source) == ("u", "environment")
    assert "MQ_PASSWORD" not in os.environ


def test_a_file_without_our_user_will_do_if_the_environment_names_one(machine: Machine) -> None:
    machine.write(machine.work / "mq_config.json", {"server": "broker"})
    machine.set(MQ_USERNAME="u", MQ_PASSWORD=PASSWORD)
    assert load("echo") == Settings((("broker", 5672),), "u", PASSWORD, "mq_config.json")


def test_parameters_are_made_for_each_host_and_name_the_service() -> None:
    settings = Settings((("a", 1), ("b", 2)), "u", PASSWORD, "test")
    parameters = parameters_of(settings, "/echo", "neon-echo")
    assert [(each.host, each.port, each.virtual_host) for each in parameters] == [
        ("a", 1, "/echo"),
        ("b", 2, "/echo"),
    ]
    for each in parameters:
        assert isinstance(each.credentials, pika.PlainCredentials)
        assert (each.credentials.username, each.credentials.password) == ("u", PASSWORD)
        assert each.client_properties == {"connection_name": "neon-echo"}
        assert not each.credentials.erase_on_connect, "the next connection needs it as well"


# ---- failures: one line that names file, key and remedy


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


# ---- limits


def test_limits_have_defaults_that_keep_the_order(machine: Machine) -> None:
    limits = Limits.from_environment()
    assert (limits.workers, limits.prefetch, limits.stuck, limits.queue_type) == (
        1,
        None,
        0,
        "auto",
    )


def test_limits_come_from_the_environment(machine: Machine) -> None:
    machine.set(MQ_WORKERS="8", MQ_PREFETCH="50", MQ_STUCK="60", MQ_QUEUE_TYPE="legacy")
    assert Limits.from_environment() == Limits(8, 50, 60, "legacy")


@pytest.mark.parametrize(
    ("workers", "prefetch", "idle"),
    [(4, 2, 2), (4, 4, 0), (4, None, 0), (4, 0, 0), (1, 1, 0), (2, 200, 0)],
)
def test_workers_for_whom_the_broker_sends_nothing_are_told_of(
    workers: int, prefetch: int | None, idle: int
) -> None:
    """As MQ_WORKERS then has no effect; 0 is no limit (AMQP)."""
    remark = Limits(workers=workers, prefetch=prefetch).remark
    assert bool(remark) is bool(idle)
    if idle:
        assert f"{idle} of {workers} workers" in remark and "MQ_PREFETCH" in remark


def test_limits_come_from_dotenv(machine: Machine) -> None:
    machine.write(machine.work / ".env", "MQ_WORKERS=3\n")
    assert Limits.from_environment().workers == 3


@pytest.mark.parametrize("variable", ["MQ_WORKERS", "MQ_PREFETCH"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "70000", "²"])
def test_a_limit_out_of_range_is_refused(machine: Machine, variable: str, value: str) -> None:
    machine.set(**{variable: value})
    with pytest.raises(ConfigurationError, match=rf"^{variable} is '{value}'; .* whole number"):
        Limits.from_environment()


def test_a_queue_type_that_does_not_exist_is_refused(machine: Machine) -> None:
    machine.set(MQ_QUEUE_TYPE="classic")
    with pytest.raises(
        ConfigurationError, match=r"MQ_QUEUE_TYPE is 'classic'.*auto, quorum, legacy"
    ):
        Limits.from_environment()


def test_the_incumbents_file_name_is_ours() -> None:
    assert config.FILE_NAME == "mq_config.json"


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
