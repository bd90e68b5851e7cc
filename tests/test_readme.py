"""Both READMEs: each command that stands in a shell block is run as it is printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import brokers
import pytest
from baked import INCUMBENT, TEMPLATE, BakedProject, copy_template, make_environment
from conftest import Count
from local import free_port
from pages import section, shell_blocks, type_in
from test_containers import docker, lacking
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ADDRESS = "gh:org/neon-mq-template"
REPLY = '"echo": {"text": "hi"}'


#: Sections whose blocks tests/test_cruft.py runs, and tests/test_service_release.py.
ELSEWHERE = ("Keep it up to date", "Keep up with the template", "Release")


def shell_blocks_of_the_rest(readme: str) -> list[str]:
    """The shell blocks of a README outside those sections."""
    there = [each for each in ELSEWHERE if f"\n## {each}\n" in readme]
    assert there
    for title in there:
        readme = readme.replace(section(readme, title), "")
    return shell_blocks(readme)


@pytest.fixture
def containers() -> Iterator[dict[str, str]]:
    """Variables that give a compose project a name and ports of its own; it is removed afterwards."""
    if reason := lacking():
        pytest.skip(reason)
    name = f"neon-test-{uuid.uuid4().hex[:8]}"
    yield {
        "COMPOSE_PROJECT_NAME": name,
        "IMAGE": name,  # Other tests build images of the same slug at the same time.
        "MQ_PORT": str(free_port()),
        "MQ_MANAGEMENT_PORT": str(free_port()),
        "MQ_BROKER_METRICS_PORT": str(free_port()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    down = ["docker", "compose", "--project-name", name, "down", "--volumes"]
    subprocess.run(down, capture_output=True, timeout=120)
    docker("image", "rm", "--force", f"{name}:latest", check=False)


@pytest.mark.containers
def test_the_generated_readme_is_true(
    project: BakedProject, containers: dict[str, str], record_property: Count
) -> None:
    blocks = shell_blocks_of_the_rest(project.read("README.md"))
    seen = [type_in(block, project.path, containers) for block in blocks]
    assert len(seen) == 6
    for block in blocks:
        record_property("shell blocks run", block)
    assert REPLY in seen[0]
    assert re.search(r"\d+ passed in", seen[1]), seen[1]
    assert json.loads(seen[2])["channels"]["neon_echo_input"]["address"] == "neon_echo_input"
    assert "FAIL" not in seen[3]
    assert "0 dead letters" in seen[4]
    assert "kept" in seen[5]
    assert "`dead --requeue`" in project.read("README.md")
    again = type_in(blocks[4].replace(" dead", " dead --requeue"), project.path, containers)
    assert "0 dead letters of" in again and "put back" in again


@pytest.mark.containers
def test_the_page_on_observability_is_true(
    project: BakedProject, containers: dict[str, str]
) -> None:
    """But for what needs images that no registry need have, and an environment: see the test below."""
    metrics, _, _, top, broker = shell_blocks(project.read("docs/observability.md"))
    # Ports stand in .env, as the README says, where a shell doesn't see them.
    ports = {name: containers.pop(name) for name in [*containers] if name.endswith("_PORT")}
    with (project / ".env").open("a", encoding="utf-8") as file:
        file.writelines(f"{name}={port}\n" for name, port in ports.items())
    assert "consuming" in type_in(metrics, project.path, containers)
    seen = type_in(top, project.path, containers)
    assert "1 of 1 processes answer" in seen
    assert "neon_echo_input" in seen
    type_in(broker, project.path, containers)


@pytest.mark.containers
def test_prometheus_finds_each_replica_by_their_name(
    project: BakedProject, containers: dict[str, str]
) -> None:
    """In the network of the compose file. Grafana stays away, whose image has no stand-in."""
    [image] = re.findall(r"image: (prom/\S+)", project.read("compose.yaml"))
    brokers.need_image(image)
    port = str(free_port())
    variables = {**containers, "MQ_METRICS_PORT": "9464", "MQ_PROMETHEUS_PORT": port}
    compose = "docker compose --profile observability"
    up = f"{compose} up --build --detach --wait --scale service=2 rabbitmq service prometheus"

    def targets() -> list[str]:
        address = f"http://127.0.0.1:{port}/api/v1/query?query=up%20==%201"
        with urllib.request.urlopen(address, timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
        return sorted(each["metric"]["job"] for each in found)

    expected = ["queues", "rabbitmq", "service", "service"]
    try:
        type_in(up, project.path, variables)
        eventually(lambda: targets() == expected, 120, lambda: f"it is {targets()}", every=1)
        # A plain `docker compose down` would leave them, and the network.
        type_in("make down", project.path, variables)
        label = f"label=com.docker.compose.project={containers['COMPOSE_PROJECT_NAME']}"
        assert docker("ps", "--all", "--quiet", "--filter", label) == ""
    finally:
        type_in(f"{compose} down --volumes", project.path, variables)


def test_the_page_on_observability_is_true_of_an_environment(project: BakedProject) -> None:
    _, _, install, _, _ = shell_blocks(project.read("docs/observability.md"))
    make_environment(project / ".venv")  # which nobody has activated
    code = "import neon_echo, prometheus_client, rich; print(neon_echo.__file__)"
    python = shlex.quote(str(project / ".venv/bin/python"))
    printed = type_in(f"{install}cd /; {python} -c '{code}'", project.path)
    where = str(project.package / "__init__.py")
    assert printed.splitlines()[-1] == where, "an edit of the source is one of the service"


@pytest.mark.containers
def test_the_templates_readme_is_true(
    tmp_path: Path, containers: dict[str, str], record_property: Count
) -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    generate, ask, demo, test = shell_blocks_of_the_rest(readme)
    # The one word that can't be had as printed: a repository's address where there is no network.
    template = copy_template(tmp_path / "neon-mq-template")
    assert ADDRESS in generate
    settings = {**containers, "COOKIECUTTER_CONFIG": os.devnull}
    enter = 20 * "\n"  # take what each prompt proposes
    type_in(generate.replace(ADDRESS, str(template)), tmp_path, settings, typed=enter)
    assert REPLY in type_in(ask, tmp_path / "neon-echo", settings)
    assert demo == "make demo\n"
    for block in (generate, ask):
        record_property("shell blocks run", block)
    assert test == "make test\n"  # which is what runs this


@pytest.mark.broker
def test_make_demo_shows_both_replies(tmp_path: Path, record_property: Count) -> None:
    record_property("shell blocks run", "make demo\n")
    template = copy_template(tmp_path / "neon-mq-template")
    (template / ".venv").symlink_to(Path(sys.prefix))
    seen = type_in("make demo", template, {})
    assert REPLY in seen
    assert '"shout": "HI"' in seen
    assert re.search(r"start a private RabbitMQ … \d+\.\d s", seen)
    [seconds] = re.findall(r"^done in (\d+)\.\d s$", seen, re.MULTILINE)
    assert int(seconds) < 60


@pytest.mark.containers
def test_the_demo_without_an_installed_rabbitmq_runs_in_containers(
    containers: dict[str, str],
) -> None:
    code = (
        "import runpy, sys; sys.path.insert(0, 'scripts'); import ensure_broker; "
        "ensure_broker.trouble = lambda: 'none here'; "
        "runpy.run_path('scripts/demo.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=TEMPLATE,
        env={**os.environ, **containers},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "docker compose up … " in done.stdout
    assert REPLY in done.stdout and '"shout": "HI"' in done.stdout


def test_some_of_the_tests_can_be_chosen_as_the_readme_says(tmp_path: Path) -> None:
    command = "make test PYTEST_ARGS='-k render'"
    assert f"`{command}`" in (TEMPLATE / "README.md").read_text(encoding="utf-8")
    template = copy_template(tmp_path / "neon-mq-template")
    (template / ".venv").symlink_to(Path(sys.prefix))
    (template / INCUMBENT.name).symlink_to(INCUMBENT)
    # Each process imports all that there are to choose from: one file's are enough, as two of them render.
    for file in (template / "tests").rglob("test_*.py"):
        if file.name != "test_secrets.py":
            file.unlink()
    seen = type_in(command, template, {"WORKERS": "2"})
    assert re.search(r"\d+ passed, \d+ deselected in", seen)


@pytest.mark.broker
def test_the_readmes_own_edit_leaves_one_test_to_change(project: BakedProject) -> None:
    """And the README names it."""
    readme = project.read("README.md")
    [answer] = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    [named] = re.findall(r"`(test_\w+)`", section(readme, "Edit the handler"))
    service = project.package / "service.py"
    edited, count = re.subn(
        r"    def answer\(.*?(?=\n    def )",
        "".join(f"    {line}\n" for line in answer.splitlines()),
        service.read_text("utf-8"),
        flags=re.DOTALL,
    )
    assert count == 1
    service.write_text(edited, "utf-8")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # With a port that nobody has, so that it takes a broker of its own.
    seen = project.run(
        "python", "-B", *words, env={"MQ_PORT": "1"}, timeout=170, check=False
    ).stdout
    assert re.findall(r"^FAILED .*::(\w+)", seen, re.MULTILINE) == [named], seen
    assert re.search(r"^1 failed, \d+ passed in", seen, re.MULTILINE), seen
