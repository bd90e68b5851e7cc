"""Where the configuration is found, and what overrides it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest
from mq_connector import config
from mq_connector.config import Settings, load, places
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


def test_the_incumbents_file_name_is_ours() -> None:
    assert config.FILE_NAME == "mq_config.json"
