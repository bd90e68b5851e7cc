"""compose.cluster.yaml beside compose.yaml: what stands in both says the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from baked import BakedProject
from operating import paste
from pages import section, shell_blocks

#: What a broker of the overlay has of its own.
OWN = {"hostname", "command", "environment", "ports", "volumes", "healthcheck"}


def services(project: BakedProject, name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(project.read(name))["services"]
    return found


@pytest.mark.parametrize("node", ["rabbitmq-2", "rabbitmq-3"])
def test_each_further_broker_is_as_the_first(default_project: BakedProject, node: str) -> None:
    first = services(default_project, "compose.yaml")["rabbitmq"]
    overlay = services(default_project, "compose.cluster.yaml")
    further = overlay[node]
    assert {key: value for key, value in further.items() if key not in OWN} == {
        key: value for key, value in first.items() if key not in OWN
    }
    assert further["hostname"] == node
    assert further["environment"] == overlay["rabbitmq"]["environment"]
    assert further["healthcheck"] == {**first["healthcheck"], **overlay["rabbitmq"]["healthcheck"]}
    mounted = {
        each["target"]: each for each in [*first["volumes"], *overlay["rabbitmq"]["volumes"]]
    }
    mounted["/var/lib/rabbitmq"] = {**mounted["/var/lib/rabbitmq"], "source": node}
    assert {each["target"]: each for each in further["volumes"]} == mounted
    assert all(port.startswith("127.0.0.1:") for port in further["ports"])


def test_the_service_waits_for_none_and_knows_all(default_project: BakedProject) -> None:
    """One that never comes up would hold it up for ever."""
    overlay = services(default_project, "compose.cluster.yaml")
    brokers = [name for name in overlay if name != "service"]
    service = overlay["service"]
    assert service["environment"]["MQ_SERVER"].split(",") == brokers
    assert service["healthcheck"] == overlay["rabbitmq"]["healthcheck"], "it is there before them"
    assert service["depends_on"] == {name: {"condition": "service_started"} for name in brokers}
    settings = default_project.read("rabbitmq/cluster.conf")
    for name in brokers:
        assert f" = rabbit@{name}\n" in settings


def test_node_by_node_none_is_taken_that_the_others_cannot_do_without(
    default_project: BakedProject, tmp_path: Path
) -> None:
    """Pasted into a shell, which goes on after what fails."""
    [loop] = shell_blocks(section(default_project.read("docs/scaling.md"), "Node by node"))
    engine = tmp_path / "docker"
    engine.write_text(
        '#!/bin/sh\necho "$*"\ncase "$*" in *rabbitmq-2*await_online_quorum_plus_one*) exit 69; esac\n'
    )
    engine.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    seen = paste(loop, default_project.path, path).stdout.splitlines()
    assert [line.split()[-1] for line in seen if " up " in line] == ["rabbitmq"]
    assert "rabbitmq-2" in seen[-1], "it ends there"
