"""`provision.py --rotate` under load, `--check` against a broker that runs: nothing lost, nobody refused, foreign entries stay."""

from __future__ import annotations

import errno
import json
import math
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pika
import pytest
from baked import BakedProject
from baked import load as load_module
from brokers import installed_node
from lending import FORGET, taking_in
from provisioning import CONFIG, DEFINITIONS, load
from running import Service, running
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

USER, SECOND = "neon_echo", "neon_echo.second"
#: Kills whoever runs it when rabbitmqctl gets to this command: an interruption, as by a loss of power.
DIES_AT = """#!/bin/sh
case "$3" in *{word}*) kill -KILL $PPID; exit 1;; esac
exec {command} "$@"
"""
#: Kills the broker when rabbitmqctl gets to this command.
KILLED_AT = """#!/bin/sh
case "$3" in *{word}*) kill -KILL {broker}; sleep 1;; esac
exec {command} "$@"
"""


def at(broker: Any) -> str:
    """What makes a command run where the installed broker is: with its own cookie, and its scripts first."""
    kept = ("HOME", "ERL_EPMD_PORT", "ERL_EPMD_ADDRESS", "LC_ALL")
    names = [name for name in broker._environment if name in kept or name.startswith("RABBITMQ_")]
    words = [f"{name}={broker._environment[name]}" for name in names]
    path = f"PATH={broker.installation.scripts}:/usr/bin:/bin"
    return shlex.join(["env", *words, path])


def connected(project: BakedProject, broker: Any) -> Any:
    """The repository's own way to a broker."""
    module = load_module("at_broker", project / "rabbitmq" / "at_broker.py")
    return module.find(at(broker))


def provision(project: BakedProject, *words: str) -> subprocess.CompletedProcess[str]:
    return project.run("python", "-B", "rabbitmq/provision.py", *words, check=False, timeout=240)


def login(project: BakedProject) -> tuple[str, str]:
    user = load(project, CONFIG)["users"][USER]
    return user["username"], user["password"]


def may_log_in(port: int, user: str, password: str) -> bool:
    where = pika.ConnectionParameters(
        "localhost", port, "/neon_echo", pika.PlainCredentials(user, password)
    )
    try:
        pika.BlockingConnection(where).close()
    except pika.exceptions.AMQPConnectionError:
        return False
    return True


@contextmanager
def load_of_requests(service: Service) -> Iterator[list[str]]:
    """Confirmed requests, one after another on new connections with what mq_config.json says; yields their ids.

    :raises AssertionError: one of them was refused
    """
    sent: list[str] = []
    trouble: list[BaseException] = []
    done = threading.Event()

    def send() -> None:
        try:
            while not done.is_set():
                with service.channel() as channel:
                    channel.confirm_delivery()
                    for _ in range(5):
                        name = f"r{len(sent)}"
                        properties = pika.BasicProperties(message_id=name)
                        body = json.dumps({"message_id": name, "text": name}).encode()
                        channel.basic_publish("", "neon_echo_input", body, properties)
                        sent.append(name)
                        time.sleep(0.01)
        except BaseException as error:  # the test's to judge
            trouble.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        eventually(lambda: len(sent) > 20 or trouble, 60)
        yield sent
        before = len(sent)
        eventually(lambda: len(sent) > before + 20 or trouble, 60)
    finally:
        done.set()
        sender.join(60)
    assert trouble == [], "a client was refused"


def handled(log: Path) -> set[str]:
    return set(log.read_text().split()) if log.exists() else set()


def write_down(project: BakedProject, log: Path) -> None:
    """Have the handler note each request that it was given."""
    path = project.package / "service.py"
    text = path.read_text()
    noted = f"open({str(log)!r}, 'a').write(request.get('text', '') + '\\n'); return {{"
    changed = text.replace("return {", noted, 1)
    assert changed != text
    path.write_text(changed)


@pytest.fixture(scope="module")
def node(default_project: BakedProject) -> Iterator[Any]:
    """One for all: a start takes three seconds of processor time."""
    with installed_node(default_project) as node:
        yield node


@pytest.fixture
def nobody(node: Any, project: BakedProject) -> Any:
    """It knows nothing; what it would take in at its next start are the repository's definitions."""
    node.definitions = project / DEFINITIONS
    node.evaluate(FORGET)
    return node


@pytest.fixture
def broker(nobody: Any) -> Any:
    """It knows what it would if it had started just now."""
    nobody.evaluate(taking_in(nobody.definitions.read_text()))
    return nobody


@pytest.mark.broker
def test_a_rotation_under_load_loses_nothing_and_refuses_nobody(
    project: BakedProject, broker: Any, tmp_path: Path
) -> None:
    log = tmp_path / "handled"
    write_down(project, log)
    assert provision(project).returncode == 0  # which a copy needs for the groups of its files
    first = login(project)
    with running(project, broker.port, tmp_path / "home") as service:
        with load_of_requests(service) as sent:
            done = provision(project, "--rotate", "--broker", at(broker))
            assert done.returncode == 0, done.stderr + done.stdout
        eventually(lambda: set(sent) <= handled(log), 60, lambda: str(len(sent)))
        second = login(project)
        assert (first[0], second[0]) == (USER, SECOND) and first[1] != second[1]
        assert may_log_in(broker.port, *second) and not may_log_in(broker.port, *first)
        assert first[1] not in done.stdout + done.stderr and second[1] not in done.stdout
        assert service.ask({"text": "still"})["echo"]["text"] == "still"
        said = service.log.read_text()
        assert "ACCESS_REFUSED" not in said and "refused" not in said, said
        # And back again: the first user's turn, with a third password.
        assert provision(project, "--rotate", "--broker", at(broker)).returncode == 0
        third = login(project)
        assert third[0] == USER and third[1] not in (first[1], second[1])
        assert not may_log_in(broker.port, *second) and may_log_in(broker.port, *third)
        assert service.ask({"text": "again"})["echo"]["text"] == "again"
        assert service.process is not None and service.process.poll() is None
    users = [each["name"] for each in load(project, DEFINITIONS)["users"]]
    assert users == [USER] and "rotating_to" not in load(project, DEFINITIONS)
    assert provision(project, "--check", "--broker", at(broker)).returncode == 0
    # What the broker takes in at its next start says the same.
    broker.stop()
    broker.start()
    assert may_log_in(broker.port, *third) and not may_log_in(broker.port, *second)


@pytest.mark.broker
@pytest.mark.parametrize("word", ["import_definitions", "delete_user"])
def test_a_rotation_that_was_interrupted_is_finished_by_the_next(
    project: BakedProject, broker: Any, tmp_path: Path, word: str
) -> None:
    first = login(project)
    dies = tmp_path / "dies"
    dies.write_text(DIES_AT.format(word=word, command=at(broker)))
    dies.chmod(0o755)
    with running(project, broker.port, tmp_path / "home") as service:
        assert provision(project, "--rotate", "--broker", str(dies)).returncode == -9
        assert may_log_in(broker.port, *login(project)) and may_log_in(broker.port, *first)
        assert service.ask({"text": "meanwhile"})["echo"]["text"] == "meanwhile"
        # What else is run in between leaves it as it is.
        assert provision(project).returncode == 0
        done = provision(project, "--rotate", "--broker", at(broker))
        assert done.returncode == 0, done.stderr
        assert login(project)[0] == SECOND
        assert may_log_in(broker.port, *login(project)) and not may_log_in(broker.port, *first)
        assert service.ask({"text": "then"})["echo"]["text"] == "then"
    assert [each["name"] for each in load(project, DEFINITIONS)["users"]] == [SECOND]


@pytest.mark.broker
def test_the_clients_password_is_renewed_as_the_page_says(
    project: BakedProject, broker: Any
) -> None:
    page = " ".join(project.read("SECURITY.md").split())
    assert "take `mq_handler` out of `mq_config.json`, run `python3 rabbitmq/provision.py" in page

    def client() -> tuple[str, str]:
        user = load(project, CONFIG)["users"]["mq_handler"]
        return user["username"], user["password"]

    assert provision(project, "--client-user", "--broker", at(broker)).returncode == 0
    before = client()
    assert may_log_in(broker.port, *before)
    config = load(project, CONFIG)
    del config["users"]["mq_handler"]
    (project / CONFIG).write_text(json.dumps(config))
    done = provision(project, "--client-user", "--broker", at(broker))
    assert done.returncode == 0 and "docker compose restart" in done.stdout
    broker.evaluate(taking_in(broker.definitions.read_text()))
    assert may_log_in(broker.port, *client())
    assert not may_log_in(broker.port, *before)


@pytest.mark.broker
def test_a_user_that_came_back_from_a_backup_stays_and_is_named(
    project: BakedProject, broker: Any, tmp_path: Path
) -> None:
    """Somebody may have logged in as that one again: it isn't for this to decide."""
    before = login(project)
    backup = tmp_path / "definitions.json"
    backup.write_text(project.read(DEFINITIONS))
    assert provision(project, "--rotate", "--broker", at(broker)).returncode == 0
    broker.evaluate(taking_in(backup.read_text()))
    done = provision(project, "--rotate", "--broker", at(broker))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"has a user {USER} that isn't of this copy" in done.stderr
    assert f"rabbitmqctl delete_user {USER}" in done.stderr
    assert may_log_in(broker.port, *before)
    assert may_log_in(broker.port, *login(project))


@pytest.mark.broker
@pytest.mark.parametrize("word", ["import_definitions", "delete_user"])
def test_a_rotation_whose_broker_dies_is_one_line_and_finished_by_the_next(
    project: BakedProject, broker: Any, tmp_path: Path, word: str
) -> None:
    """At each step: nobody is shut out, and what rabbitmqctl says then is a page on what may be the reason."""
    first = login(project)
    kills = tmp_path / "kills"
    kills.write_text(KILLED_AT.format(word=word, command=at(broker), broker=broker.pid))
    kills.chmod(0o755)
    cut_short = provision(project, "--rotate", "--broker", str(kills))
    broker.start()
    assert cut_short.returncode == 1
    assert cut_short.stderr == (
        f"provision.py: the broker: rabbitmqctl {word} doesn't reach it: start it, or name somebody who may "
        "ask it (--broker sudo, say); then run this again\n"
    )
    assert may_log_in(broker.port, *login(project)) and may_log_in(broker.port, *first)
    done = provision(project, "--rotate", "--broker", at(broker))
    assert done.returncode == 0, done.stderr
    assert login(project)[0] == SECOND
    assert may_log_in(broker.port, *login(project)) and not may_log_in(broker.port, *first)


@pytest.mark.broker
def test_who_has_the_old_file_is_named_and_goes_on_until_he_has_the_new_one(
    project: BakedProject, broker: Any, tmp_path: Path
) -> None:
    first = login(project)
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(project.read(CONFIG))
    with running(
        project, broker.port, tmp_path / "home", NEON_MQ_CONFIG_PATH=str(elsewhere)
    ) as service:
        done = provision(project, "--rotate", "--broker", at(broker))
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert f"1 connection still comes as user {USER}, from 127.0.0.1" in done.stderr
        assert may_log_in(broker.port, *first) and may_log_in(broker.port, *login(project))
        assert service.command("health").returncode == 0
        elsewhere.write_text(project.read(CONFIG))
        done = provision(project, "--rotate", "--broker", at(broker))
        assert done.returncode == 0, done.stderr
        assert not may_log_in(broker.port, *first)
        eventually(lambda: service.command("health").returncode == 0, 60)


@dataclass
class Client:
    """One that is connected as the old user, at a broker where only waiting takes time."""

    #: Seconds until he has done what he came for.
    busy: float
    #: Seconds after which he comes again when he is cut off, with the old password.
    back: float = math.inf
    now: float = 0.0
    cut_at: float = math.inf
    #: How often the broker was asked who is there, which costs it half a second of processor time.
    asked: int = 0

    def connections(self, user: str) -> list[str]:
        self.asked += 1
        there = (
            self.now < self.busy if self.now < self.cut_at else self.now >= self.cut_at + self.back
        )
        return ["10.0.0.1:4000"] if there and user == USER else []

    def disconnect(self, user: str) -> None:
        assert user == USER
        self.cut_at = self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


def move(project: BakedProject, client: Client) -> None:
    """What a rotation does between the new user's coming and the old one's removal."""
    rotation = load_module("rotation", project / "rabbitmq" / "rotation.py")
    with mock.patch.multiple(rotation, containers=list, time=client):
        rotation.move(client, USER, SECOND)


def test_what_is_under_way_with_the_old_password_has_time_to_end(project: BakedProject) -> None:
    client = Client(busy=3)
    move(project, client)
    assert client.cut_at == math.inf


def test_who_ends_soon_is_waited_for_no_longer(project: BakedProject) -> None:
    client = Client(busy=0.4)
    move(project, client)
    assert client.now <= 1 and client.cut_at == math.inf


def test_the_broker_is_seldom_asked_who_is_still_there(project: BakedProject) -> None:
    client = Client(busy=math.inf)
    move(project, client)
    assert client.asked <= 6 and client.cut_at == 5


def test_who_stays_with_the_old_password_is_cut_off(project: BakedProject) -> None:
    client = Client(busy=math.inf)
    move(project, client)
    assert client.connections(USER) == []


def test_who_comes_again_with_the_old_password_has_time_to_and_is_named(
    project: BakedProject,
) -> None:
    with pytest.raises(
        Exception, match=r"1 connection still comes as user neon_echo, from 10\.0\.0\.1"
    ):
        move(project, Client(busy=math.inf, back=3))


@pytest.mark.broker
def test_a_broker_of_an_older_version_is_named_and_brought_up_to_date(
    project: BakedProject, broker: Any
) -> None:
    at_it = ("--broker", at(broker))
    # As an earlier version made it, and what the operator has beside.
    policy = "neon_echo_input quorum"
    there = load(project, DEFINITIONS)
    [quorum] = [each for each in there["policies"] if each["name"] == policy]
    [rights] = there["permissions"]
    [user] = there["users"]
    old = {"delivery-limit": 20, "max-length": 7}
    mine = {**quorum, "name": "mine", "pattern": "^x$", "definition": {"max-length": 5}}
    connected(project, broker).tell(
        {
            "users": [{**user, "name": "mine"}],
            "policies": [{**quorum, "definition": {**quorum["definition"], **old}}, mine],
            "permissions": [{**rights, "configure": "^a$"}, {**rights, "user": "mine"}],
        }
    )
    before = connected(project, broker).definitions()
    checked = provision(project, "--check", *at_it)
    assert checked.returncode == 1
    for line in (
        f"the broker: policy '{policy}' in /neon_echo: delivery-limit is 20, and is to be 100",
        f"the broker: policy '{policy}' in /neon_echo: max-length is 7, and is to be 1000000",
        f"the broker: rights of user {USER} in /neon_echo: configure is '^a$'",
    ):
        assert line in checked.stdout
    assert provision(project, *at_it).returncode == 0
    assert provision(project, "--check", *at_it).returncode == 0
    after = connected(project, broker).definitions()
    assert after["users"] == before["users"], "passwords stay"
    assert mine in after["policies"] and {**rights, "user": "mine"} in after["permissions"]
    assert len(after["policies"]) == len(before["policies"]) == len(there["policies"]) + 1
    assert may_log_in(broker.port, *login(project))


@pytest.mark.broker
def test_a_broker_that_knows_nothing_is_told_all(
    project: BakedProject, nobody: Any, tmp_path: Path
) -> None:
    """As in CI, where it is started before there is a repository; or another service's."""
    assert not may_log_in(nobody.port, *login(project))
    done = provision(project, "--broker", at(nobody))
    assert done.returncode == 0, done.stderr
    assert f"the broker: rights of user {USER} in /neon_echo are missing" in done.stdout
    assert may_log_in(nobody.port, *login(project))
    assert provision(project, "--check", "--broker", at(nobody)).returncode == 0
    with running(project, nobody.port, tmp_path / "home") as service:
        assert service.ask({"text": "hi"})["echo"]["text"] == "hi"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("false", "the broker: exit code 1"),
        (
            "sh -c 'echo Error: unable to perform an operation on node >&2; exit 69'",
            "rabbitmqctl eval doesn't reach it: start it",
        ),
        (
            "sh -c 'echo Error: it requires the app to be running on the target node >&2; exit 64'",
            "then run this again",
        ),
        ("/nowhere/kubectl", "/nowhere/kubectl can't be run"),
        ("", "--broker is empty"),
        ("'", "No closing quotation"),
        ("echo", "printed no definitions"),
    ],
)
@pytest.mark.parametrize("what", ["--rotate", "--check"])
def test_a_broker_that_cant_be_asked_is_one_line(
    project: BakedProject, command: str, says: str, what: str
) -> None:
    before = {name: project.read(name) for name in (CONFIG, DEFINITIONS)}
    done = provision(project, what, "--broker", command)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and says in done.stderr
    assert {name: project.read(name) for name in before} == before


def test_without_an_engine_and_a_broker_one_line_says_what_to_do(project: BakedProject) -> None:
    script = [sys.executable, "-B", "rabbitmq/provision.py", "--rotate"]
    done = project.run(*script, check=False, env={"PATH": str(project / "empty")})
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "no docker command" in done.stderr and "--broker" in done.stderr


def test_credentials_in_env_would_win_so_nothing_is_rotated(project: BakedProject) -> None:
    with (project / ".env").open("a") as file:
        file.write("MQ_PASSWORD=mine\n")
    done = provision(project, "--rotate", "--broker", "false")
    assert done.returncode == 1 and "MQ_PASSWORD counts before mq_config.json" in done.stderr


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_file_that_cant_be_written_is_named_and_stays_as_it_was(
    project: BakedProject, call: str
) -> None:
    before, files = project.read(CONFIG), project.files()
    documents = load_module("documents", project / "rabbitmq" / "documents.py")
    config = documents.Document(CONFIG, 0o600)
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch.object(documents.os, call, side_effect=full),
        pytest.raises(documents.Broken, match=rf"^{CONFIG} can't be written in .*No space left"),
    ):
        config.write("{}\n", (-1, -1))
    assert project.read(CONFIG) == before and project.files() == files
