"""A service whose user, and key under `users`, has another name than its package."""

from __future__ import annotations

import json
from pathlib import Path

import brokers
import pytest
from baked import BakedProject, bake_into, command_line
from provisioning import CONFIG, DEFINITIONS, load, password_fits
from running import running

KEY = "neon_metrics_connector"


@pytest.fixture
def named(tmp_path: Path) -> BakedProject:
    answers = {"service_name": "Neon Metrics Service", "__user_key": KEY}
    return bake_into(tmp_path, answers)


def test_the_key_is_given_on_the_command_line_and_not_asked_for(tmp_path: Path) -> None:
    done = command_line(tmp_path / "out", f"__user_key={KEY}")
    assert done.returncode == 0, done.stderr
    project = tmp_path / "out" / "neon-echo"
    config = json.loads((project / CONFIG).read_text(encoding="utf-8"))
    assert set(config["users"]) == {KEY}
    # Without it, it is the package's name, whatever is typed for that.
    asked = bake_into(tmp_path / "asked", {"package_name": "weather"}, typed=True)
    assert set(load(asked, CONFIG)["users"]) == {"weather"}


def test_the_user_gets_the_services_rights_and_its_password(named: BakedProject) -> None:
    assert named.package.name == "neon_metrics_service"
    user = load(named, CONFIG)["users"][KEY]
    assert user["username"] == KEY
    assert password_fits(named, KEY, user["password"])
    [rights] = load(named, DEFINITIONS)["permissions"]
    assert rights["user"] == KEY
    assert rf"{KEY}\.reply\." in rights["read"]
    printed = named.script("rabbitmq/provision.py", "--print", "neon").stdout
    assert f'"{KEY}": [' in printed and '"neon_metrics_service"' in printed


@pytest.mark.broker
@pytest.mark.timeout(300)
def test_it_answers_under_that_name_with_all_its_commands(
    named: BakedProject, tmp_path: Path
) -> None:
    with (
        brokers.installed(named) as port,
        running(named, port, tmp_path / "home") as service,
    ):
        assert service.ask({"text": "hi"})["echo"] == {"text": "hi"}
        seen = service.command("doctor")
        assert seen.returncode == 0 and "health: " in seen.stdout, seen.stdout
        assert service.command("dead").returncode == 0
        assert "usage: python -m neon_metrics_service " in service.command("--help").stdout
        assert service.stop() == 0, service.log.read_text()
