"""The folder for Kubernetes in its repository: copies of secrets, and the page about it."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess

import manifests
import pika
import pytest
from baked import BakedProject, bake_into, load
from conftest import Bake
from manifests import (
    FOLDER,
    OVERLAYS,
    VERSIONS,
    Object,
    Rendered,
    copy_secrets,
    default,
    kustomize,
    login,
    one,
    pod_of,
    render,
)
from pages import shell_blocks, type_in

__all__ = ["default"]


# ---- secrets


def test_copies_of_secrets_are_their_owner_s_and_never_in_git(default: Rendered) -> None:
    project = default[0]
    copies = {
        f"{FOLDER}/base/mq_config.json",
        f"{FOLDER}/overlays/keda/keda.env",
        f"{FOLDER}/overlays/broker/definitions.json",
    }
    rendering = bake_into(project.path.parent / "fresh")
    assert project.files() - rendering.files() == copies
    for name in copies:
        assert stat.S_IMODE((project / name).stat().st_mode) == 0o600, name
    project.run("git", "init", "--quiet")
    ignored = project.run("git", "check-ignore", *copies).stdout.split()
    assert set(ignored) == copies


def test_a_changed_password_replaces_the_pods(project: BakedProject) -> None:
    def template() -> Object:
        copy_secrets(project)
        found: Object = one(render(project, "base"), "Deployment")["spec"]["template"]
        return found

    before = template()
    assert template() == before
    config = json.loads(project.read("mq_config.json"))
    config["users"]["neon_echo"]["password"] = "another"
    (project / "mq_config.json").write_text(json.dumps(config))
    assert template() != before


def test_without_the_copies_kustomize_names_what_is_missing(default_project: BakedProject) -> None:
    for overlay, name in zip(OVERLAYS, [*3 * ["mq_config.json"], "definitions.json"], strict=True):
        done = kustomize(default_project, overlay)
        assert done.returncode == 1 and name in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "mq_config.json is missing: python3 rabbitmq/provision.py makes it"),
        ("{", "mq_config.json isn't valid JSON"),
        ('{"users": {}}', "users.neon_echo isn't an object"),
        ('{"users": {"neon_echo": {"username": 7}}}', "users.neon_echo.username isn't a string"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_clear_line(
    project: BakedProject, text: str | None, says: str
) -> None:
    (project / "mq_config.json").unlink()
    if text is not None:
        (project / "mq_config.json").write_text(text)
    done = project.run("python", "-B", f"{FOLDER}/copy_secrets.py", check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_without_definitions_only_the_brokers_cannot_be_applied(project: BakedProject) -> None:
    (project / "rabbitmq/definitions.json").unlink()
    assert "rabbitmq/definitions.json is missing: overlays/broker" in copy_secrets(project)
    for overlay in OVERLAYS[:-1]:
        assert render(project, overlay)


@pytest.mark.parametrize(
    ("broker", "begins", "ends"),
    [
        ("mq.example.org", "amqp://", "@mq.example.org:5672/%2Fneon_echo"),
        ("mq.example.org:5671", "amqps://", "@mq.example.org:5671/%2Fneon_echo"),
    ],
)
def test_keda_goes_to_the_broker_that_was_named(
    project: BakedProject, broker: str, begins: str, ends: str
) -> None:
    said = copy_secrets(project, "--broker", broker)
    url = project.read(f"{FOLDER}/overlays/keda/keda.env").removeprefix("host=").strip()
    assert url.startswith(begins) and url.endswith(ends)
    assert url.split(":")[2].split("@")[0] not in said, "the password was printed"


@pytest.mark.parametrize("broker", ["", "amqp://mq/x", "mq:amqp", "mq:5672:1", "mq:70000", "a b"])
def test_what_names_no_broker_is_refused_and_nothing_written(
    project: BakedProject, broker: str
) -> None:
    words = ["python", "-B", f"{FOLDER}/copy_secrets.py", "--broker", broker]
    done = project.run(*words, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        f"--broker {broker!r}: give a host, or HOST:PORT, as in neon-rabbitmq.default.svc:5672"
    )
    assert not (project / FOLDER / "base/mq_config.json").exists()


def test_a_password_of_signs_stays_one(project: BakedProject) -> None:
    script = load("copy_secrets", project / FOLDER / "copy_secrets.py")
    asked = pika.URLParameters(script.address("a/b", "p@:/?#%&+ ü", "mq"))
    assert login(asked) == ("a/b", "p@:/?#%&+ ü")


# ---- the folder and its page


def test_nothing_else_needs_the_folder(bake: Bake) -> None:
    project = bake()
    shutil.rmtree(project / "deploy")
    (project / "docs/kubernetes.md").unlink()
    naming = {
        name for name in project.files() if re.search(r"deploy/|kubernetes\.md", project.read(name))
    }
    assert naming == {"README.md"}, "one line of a table"


def test_the_page_s_commands_are_true(project: BakedProject) -> None:
    _, copies, shown, applied = shell_blocks(project.read("docs/kubernetes.md"))
    path = {"PATH": f"{manifests.kubectl().parent}{os.pathsep}{os.environ['PATH']}"}
    assert type_in(copies, project.path, path).count("written") == 3
    type_in(shown, project.path, path)
    assert shown.count("kubectl kustomize") == len(OVERLAYS)
    for overlay in re.findall(rf"{FOLDER}/\S+", shown + applied):
        assert (project / overlay / "kustomization.yaml").is_file()


def test_the_page_s_image_is_the_deployment_s(default: Rendered) -> None:
    build, *_ = shell_blocks(default[0].read("docs/kubernetes.md"))
    [container] = pod_of(default[1]["base"])["containers"]
    assert f"--tag {container['image']} " in build


def test_the_program_of_the_tests_is_the_one_that_the_page_names(default: Rendered) -> None:
    done = subprocess.run(
        [manifests.kubectl(), "version", "--client", "--output=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    version = json.loads(done.stdout)["clientVersion"]["gitVersion"]
    page = default[0].read("docs/kubernetes.md")
    assert re.findall(r"`kubectl kustomize` \((\S+)\)", page) == [version[1:].rpartition(".")[0]]
    assert f"Kubernetes {VERSIONS[0]} and {VERSIONS[1]}" in page
