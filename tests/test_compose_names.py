"""What Docker Compose calls a copy's containers, volumes and image: two copies don't fight, none loses its volume."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import provisioning
import pytest
import yaml
from baked import TREE, BakedProject
from conftest import Bake
from provisioning import provision

#: The files that name the broker's image.
BROKER = ("compose.yaml", "deploy/kubernetes/overlays/broker/cluster.yaml")


def named(project: BakedProject) -> list[str]:
    return re.findall("^COMPOSE_PROJECT_NAME=(.*)$", project.read(".env"), re.MULTILINE)


def composed(project: BakedProject, **env: str) -> dict[str, Any]:
    """The compose file as Docker Compose understands it."""
    if not shutil.which("docker"):
        pytest.skip("no docker command on this machine")
    words = ("docker", "compose", "config", "--format", "json")
    if project.run(*words[:2], "version", check=False).returncode:
        pytest.skip("`docker compose version` fails on this machine")
    made: dict[str, Any] = json.loads(project.run(*words, env=env).stdout)
    return made


def test_copies_in_two_folders_are_two_compose_projects(bake: Bake) -> None:
    """Else the second one's `up` would replace the first one's containers and take over its volume."""
    first, second = bake(), bake()
    assert first.path.name == second.path.name
    assert named(first) != named(second)
    [name] = named(first)
    assert re.fullmatch("neon-echo-[0-9a-f]{6}", name)
    provisioning.clone(first)  # all that was made is gone
    provision(first)
    assert named(first) == [name], "the broker's volume would be left behind"
    made = composed(first)
    assert made["name"] == name and made["volumes"]["rabbitmq"]["name"] == f"{name}_rabbitmq"


def test_a_folder_copied_whole_is_another_project_after_what_the_readme_says(
    project: BakedProject, tmp_path: Path
) -> None:
    [name] = named(project)
    copied = shutil.copytree(project.path, tmp_path / "copied" / "neon-echo", symlinks=True)
    copy = BakedProject(copied, project.answers)
    assert composed(copy)["name"] == name, "nobody has to be told any more"
    [said] = re.findall("`(echo COMPOSE_PROJECT_NAME=.*)`", project.read("README.md"))
    copy.run("sh", "-c", said)
    provision(copy)
    made = composed(copy)
    assert made["name"] == "neon-echo-2" != name
    assert made["volumes"]["rabbitmq"]["name"] == "neon-echo-2_rabbitmq"


def test_a_copy_may_have_an_image_of_its_own(project: BakedProject) -> None:
    """Else one that is built in a copy runs in the other after its next `docker compose up`."""
    assert "an image each (`IMAGE` in `.env`)" in " ".join(project.read("README.md").split())
    assert composed(project)["services"]["service"]["image"] == "neon-echo:latest"
    with (project / ".env").open("a", encoding="utf-8") as file:
        file.write("IMAGE=neon-echo-2\n")
    assert composed(project)["services"]["service"]["image"] == "neon-echo-2:latest"


@pytest.mark.parametrize("settings", ["SERVICE_UID=10001\nSERVICE_GID=10001\n", "MQ_PORT=5999\n"])
def test_a_copy_that_is_older_keeps_its_volume(project: BakedProject, settings: str) -> None:
    (project / ".env").write_text(settings)
    provision(project)
    assert named(project) == []
    assert composed(project)["volumes"]["rabbitmq"]["name"] == "neon-echo_rabbitmq"
    (project / ".env").unlink()
    provision(project)
    assert named(project) == [], "what is made anew must not point elsewhere"


@pytest.mark.containers
def test_settings_that_were_lost_find_the_volume_again(project: BakedProject) -> None:
    provision(provisioning.clone(project))
    [name] = named(project)
    if not shutil.which("docker") or project.run("docker", "info", check=False).returncode:
        pytest.skip("no Docker engine on this machine")
    project.run("docker", "volume", "create", f"{name}_rabbitmq")
    try:
        (project / ".env").unlink()
        provision(project)
        assert named(project) == [name]
    finally:
        project.run("docker", "volume", "rm", f"{name}_rabbitmq")


def test_the_image_has_a_name_and_a_tag_that_one_can_choose(project: BakedProject) -> None:
    service = composed(project)["services"]["service"]
    assert service["image"] == "neon-echo:latest" and service["build"]["context"]
    chosen = composed(project, IMAGE="registry.example.org/echo", TAG="1.2.0")
    assert chosen["services"]["service"]["image"] == "registry.example.org/echo:1.2.0"
    printed = provision_print(project)
    [entry] = [each["services"] for each in printed if each and "services" in each]
    assert entry["neon-echo"]["image"] == "${IMAGE:-neon-echo}:${TAG:-latest}"


def provision_print(project: BakedProject) -> list[Any]:
    done = project.script("rabbitmq/provision.py", "--print", "neon")
    return list(yaml.safe_load_all(done.stdout))


def test_the_brokers_image_is_pinned_to_one_minor_version_everywhere() -> None:
    found = {
        name: re.findall(r"image: rabbitmq:(\S+)", (TREE / name).read_text(encoding="utf-8"))
        for name in BROKER
    }
    versions = {version for each in found.values() for version in each}
    assert all(found.values()) and len(versions) == 1, found
    [version] = versions
    minor = re.fullmatch(r"(\d+\.\d+)-management", version)
    assert minor
    workflow = yaml.safe_load(
        (TREE / ".github/workflows/ci.yml").read_text(encoding="utf-8").replace("<<", "")
    )
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["rabbitmq"][-1] == minor[1]
    assert {each["rabbitmq"] for each in matrix["include"]} == {minor[1]}
    for path in TREE.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert not set(re.findall(r"\brabbitmq:(\d\S*)", text)) - {version, "15692"}, path
