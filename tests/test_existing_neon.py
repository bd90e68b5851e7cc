"""Into an existing Neon installation, by what `provision.py --print neon` says, step by step."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brokers
import pika
import pytest
import yaml
from baked import TEMPLATE, BakedProject, bake_into
from conftest import Count
from pages import shell_blocks, type_in
from pika.exceptions import ProbableAccessDeniedError
from provisioning import provision
from running import Service, running

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]

MAPS, SERVICES, DEFINITIONS, CONFIGURATION, COMPOSE, SECRET, DEPLOYMENT = range(7)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    return bake_into(tmp_path_factory.mktemp("newcomer"), {"service_name": "Neon Weather"})


@pytest.fixture(scope="module")
def printed(newcomer: BakedProject) -> list[Any]:
    """The documents, parsed."""
    done = newcomer.run("python", "rabbitmq/provision.py", "--print", "neon")
    assert "password" in done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def neon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, BakedProject]]:
    """A broker with a Neon system of its own, whose clients' user has a password already."""
    existing = bake_into(tmp_path_factory.mktemp("existing"), {"service_name": "Neon Old"})
    provision(existing, "--client-user")
    with brokers.installed_node(existing) as broker:
        yield broker, existing


@pytest.fixture(scope="module")
def service(
    newcomer: BakedProject,
    printed: list[Any],
    neon: tuple[Any, BakedProject],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """The newcomer, after an operator has followed the page."""
    broker, existing = neon
    folder = tmp_path_factory.mktemp("operator")
    new = folder / "new.json"
    new.write_text(json.dumps(printed[DEFINITIONS]))
    broker.ctl("import_definitions", str(new))
    old = json.loads(existing.read("mq_config.json"))
    merged = {**old, "users": {**old["users"], **printed[CONFIGURATION]["MQ"]["users"]}}
    config = folder / "mq_config.json"
    config.write_text(json.dumps({"MQ": merged}))
    # As in Neon's images, the whole system shares one file.
    (newcomer / "mq_config.json").write_text(json.dumps(merged))
    with running(newcomer, broker.port, folder / "home", NEON_MQ_CONFIG_PATH=str(config)) as one:
        yield one


def test_the_service_is_answered_for_by_neons_own_clients(service: Service) -> None:
    assert service.ask_as_neon({"text": "hi"})[0]["echo"] == {"text": "hi"}


def test_the_doctor_finds_nothing_wrong(service: Service, record_property: Count) -> None:
    page = (TEMPLATE / "docs" / "add-to-neon.md").read_text("utf-8")
    [block] = [each for each in shell_blocks(page) if "doctor" in each]
    # The service here has another name than the page's.
    mine = block.replace("neon_echo", service.project.answers["package_name"])
    assert "FAIL" not in type_in(mine, service.project.path, service.terminal)
    record_property("shell blocks run", block)


def test_it_gets_nothing_of_the_others(service: Service, printed: list[Any]) -> None:
    user = printed[CONFIGURATION]["MQ"]["users"]["neon_weather"]
    credentials = pika.PlainCredentials(user["username"], user["password"])
    with pytest.raises(ProbableAccessDeniedError):
        pika.BlockingConnection(
            pika.ConnectionParameters("localhost", service.port, "/neon_old", credentials)
        )


def test_the_clients_user_keeps_its_password(printed: list[Any]) -> None:
    assert [user["name"] for user in printed[DEFINITIONS]["users"]] == ["neon_weather"]


def test_the_clients_user_may_have_another_name(newcomer: BakedProject) -> None:
    words = ("python", "rabbitmq/provision.py", "--print", "neon", "--client-user", "klat")
    printed = list(yaml.safe_load_all(newcomer.run(*words).stdout))
    for document in (MAPS, DEFINITIONS):
        users = {right["user"] for right in printed[document]["permissions"]}
        assert users == {"neon_weather", "klat"}


def test_services_can_share_a_virtual_host(tmp_path: Path) -> None:
    """As Neon's language models share /llm; the patterns are joined as docs/add-to-neon.md says."""
    first, second = (
        bake_into(tmp_path / name, {"service_name": name, "vhost": "/llm"})
        for name in ("Neon First", "Neon Second")
    )
    provision(first, "--client-user")
    clients = json.loads(first.read("mq_config.json"))["users"]["mq_handler"]
    done = second.run("python", "rabbitmq/provision.py", "--print", "neon")
    new = list(yaml.safe_load_all(done.stdout))[DEFINITIONS]
    there = json.loads(first.read("rabbitmq/definitions.json"))["permissions"]
    for right in new["permissions"]:
        for old in there:
            if old["user"] == right["user"]:
                right |= {key: f"{old[key]}|{right[key]}" for key in ("configure", "write", "read")}
    (tmp_path / "new.json").write_text(json.dumps(new))
    config = json.loads(second.read("mq_config.json"))
    config["users"]["mq_handler"] = clients
    (second / "mq_config.json").write_text(json.dumps(config))
    with brokers.installed_node(first) as broker:
        broker.ctl("import_definitions", str(tmp_path / "new.json"))
        for project in (first, second):
            with running(project, broker.port, tmp_path / "home") as one:
                assert one.ask_as_neon({"text": "hi"})[0]["echo"] == {"text": "hi"}
                assert one.command("doctor").returncode == 0


def test_the_installers_maps_have_its_shape(printed: list[Any]) -> None:
    maps = printed[MAPS]
    assert set(maps) == {"users", "vhosts", "permissions"}
    assert set(maps["users"][0]) == {"name", "password", "tags"}
    assert {right["user"] for right in maps["permissions"]} == {"neon_weather", "neon_api_utils"}
    assert printed[SERVICES] == {"neon_weather": ["neon_weather"]}


def test_kubernetes_mounts_the_configuration_where_neon_does(printed: list[Any]) -> None:
    secret, pod = printed[SECRET], printed[DEPLOYMENT]["spec"]["template"]["spec"]
    config = json.loads(secret["stringData"]["mq_config.json"])
    assert config["server"] == "neon-rabbitmq"
    assert set(config["users"]) == {"neon_weather"}
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "mq"]
    assert mount["mountPath"] == "/config/neon"
    assert {"secret": {"secretName": secret["metadata"]["name"]}, "name": "mq"} in pod["volumes"]


def test_compose_accepts_its_entry(printed: list[Any], tmp_path: Path) -> None:
    compose = ["docker", "compose", "version"]
    if not shutil.which("docker") or subprocess.run(compose, capture_output=True).returncode:
        pytest.skip("`docker compose version` fails on this machine")
    (tmp_path / "compose.yaml").write_text(json.dumps(printed[COMPOSE]))
    checked = subprocess.run(
        ["docker", "compose", "config", "--quiet"], cwd=tmp_path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


def test_before_there_are_credentials_one_line_says_what_to_do(newcomer: BakedProject) -> None:
    fresh = newcomer.path.parent / "fresh"
    shutil.copytree(newcomer.path, fresh)
    project = BakedProject(fresh, newcomer.answers)
    (project / "mq_config.json").unlink()
    done = project.run("python", "rabbitmq/provision.py", "--print", "neon", check=False)
    assert done.returncode == 1
    assert "mq_config.json" in done.stderr.splitlines()[-1]
