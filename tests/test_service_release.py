"""A service's release: what its workflow may do, and its steps in a shell here, from the README's tag to the labels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from baked import TEMPLATE, BakedProject, bake_into, outside, parse
from pages import section, shell_blocks, type_in
from test_containers import docker, inspect, lacking
from test_stamp import git

WORKFLOW = ".github/workflows/release.yml"
#: What the hosting service would put into the expressions.
REPOSITORY = {
    "github.actor": "ada",
    "github.repository": "Lovelace/Neon-Echo",
    "github.server_url": "https://git.example",
    "github.token": "t0ken",
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """A repository with a tag, made and pushed as the README says; then cloned as the runner does it."""
    folder = tmp_path_factory.mktemp("released")
    project = bake_into(folder / "mine")
    git(folder, "init", "--quiet", "--bare", "origin.git")
    git(project.path, "init", "--quiet", "--initial-branch=main")
    git(project.path, "remote", "add", "origin", str(folder / "origin.git"))
    git(project.path, "add", "--all")
    git(project.path, "commit", "--quiet", "--message", "Begin")
    [block] = shell_blocks(section(project.read("README.md"), "Release"))
    type_in(block, project.path, {"GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x"})
    tagged = ["clone", "--quiet", "--depth=1", "--branch=v0.1.0", (folder / "origin.git").as_uri()]
    git(folder, *tagged, "checkout")
    return BakedProject(folder / "checkout", project.answers)


def jobs(project: BakedProject) -> dict[str, Any]:
    found: dict[str, Any] = parse(WORKFLOW, project.read(WORKFLOW))["jobs"]
    return found


def step(project: BakedProject, name: str) -> dict[str, Any]:
    """A step of the job that builds the image, by its id."""
    [found] = [each for each in jobs(project)["image"]["steps"] if each.get("id") == name]
    assert isinstance(found, dict)
    return found


def run_names(project: BakedProject, tag: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The step that takes names from the tag, in the shell that the runner takes."""
    script, output = project.path.parent / "script.sh", project.path.parent / "output"
    script.write_text(step(project, "names")["run"])
    output.write_text("")
    variables = {
        "GITHUB_OUTPUT": str(output),
        "GITHUB_REF_NAME": tag,
        "GITHUB_REPOSITORY": REPOSITORY["github.repository"],
    }
    command = ["bash", "-e", str(script)]
    environment = {**outside(), **variables}
    done = subprocess.run(
        command, cwd=project.path, env=environment, capture_output=True, text=True, timeout=60
    )
    return done, output


def outputs(project: BakedProject) -> dict[str, str]:
    done, output = run_names(project, "v0.1.0")
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split("=", 1) for line in output.read_text().splitlines())


def filled(project: BakedProject, text: str) -> str:
    """A text with its expressions replaced by what they stand for."""
    values = {**REPOSITORY, "github.sha": git(project.path, "rev-parse", "HEAD")}
    values |= {f"steps.names.outputs.{key}": value for key, value in outputs(project).items()}
    return re.sub(r"\$\{\{ (.*?) \}\}", lambda match: values[match[1]], text)


def test_the_tag_says_version_and_image_and_the_commit_says_when(released: BakedProject) -> None:
    found = outputs(released)
    assert found.keys() == {"version", "image", "seconds", "created"}
    # The registry takes no capitals.
    assert (found["version"], found["image"]) == ("0.1.0", "ghcr.io/lovelace/neon-echo")
    seconds = int(git(released.path, "log", "-1", "--format=%ct"))
    assert int(found["seconds"]) == seconds
    assert datetime.fromisoformat(
        found["created"].replace("Z", "+00:00")
    ) == datetime.fromtimestamp(seconds, timezone.utc)


@pytest.mark.parametrize("file", ["pyproject.toml", "src/neon_echo/__init__.py"])
def test_a_tag_that_isn_t_the_version_of_the_sources_ends_the_run(
    released: BakedProject, file: str
) -> None:
    path = released / file
    before = path.read_text()
    path.write_text(
        before.replace('version = "0.1.0"', 'version = "0.1.1"').replace(
            '__version__ = "0.1.0"', '__version__ = "0.1.1"'
        )
    )
    try:
        done, output = run_names(released, "v0.1.0")
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert f"::error file={file}::the tag is v0.1.0" in done.stdout
    assert output.read_text() == ""


def test_a_dot_of_the_version_is_a_dot(released: BakedProject) -> None:
    assert run_names(released, "v0x1.0")[0].returncode == 1


@pytest.mark.slow
@pytest.mark.containers
@pytest.mark.timeout(600)
def test_the_image_says_its_version_and_commit(released: BakedProject) -> None:
    """Built with what the workflow hands to the action, but for what only a newer builder can do."""
    if reason := lacking():
        pytest.skip(reason)
    given = step(released, "push")["with"]
    name = f"neon-test-{uuid.uuid4().hex[:8]}"
    build = ["build", "--tag", name]
    for key, option in (("build-args", "--build-arg"), ("labels", "--label")):
        for line in filled(released, given[key]).splitlines():
            build += [option, line]
    try:
        docker(*build, str(released / given["context"]), timeout=540)
        image = inspect(name)["Config"]
    finally:
        docker("rmi", "--force", name, check=False)
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in image["Labels"].items()
    }
    assert labels["version"] == "0.1.0"
    assert labels["revision"] == git(released.path, "rev-parse", "HEAD")
    assert labels["source"] == "https://git.example/Lovelace/Neon-Echo"
    assert labels["created"] == outputs(released)["created"]
    assert filled(released, given["tags"]) == "ghcr.io/lovelace/neon-echo:0.1.0"


def test_make_up_says_version_and_commit_to_compose(released: BakedProject, tmp_path: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("no docker command on this machine")
    # In its place: what compose would build with, which needs no engine.
    stand_in = tmp_path / "bin" / "docker"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\nexec {shutil.which('docker')} compose config\n")
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"

    def labels() -> tuple[str, str]:
        done = released.run("make", "--silent", "up", env={"PATH": path, "MAKEFLAGS": ""})
        args = parse("x.yaml", done.stdout)["services"]["service"]["build"]["args"]
        return args["VERSION"], args["REVISION"]

    commit = git(released.path, "rev-parse", "HEAD")
    assert labels() == ("0.1.0", commit)
    with (released / "CHANGELOG.md").open("a") as file:
        file.write("\n")
    assert labels() == ("0.1.0", f"{commit}-dirty")
    git(released.path, "checkout", "--quiet", "CHANGELOG.md")


def test_each_job_has_the_least_rights_and_no_secret_but_the_run_s_token(
    default_project: BakedProject,
) -> None:
    text = default_project.read(WORKFLOW)
    workflow = parse(WORKFLOW, text)
    assert workflow["permissions"] == {}
    assert {name: job["permissions"] for name, job in workflow["jobs"].items()} == {
        "check": {"contents": "read"},
        "image": {"contents": "read", "packages": "write"},
        "attest": {"attestations": "write", "id-token": "write"},
    }
    assert "secrets" not in text
    # What signs runs no shell and fetches no source.
    assert [each["uses"].split("@")[0] for each in workflow["jobs"]["attest"]["steps"]] == [
        "actions/attest-build-provenance"
    ]


def test_an_image_is_built_after_ci_has_passed_and_not_in_its_group(
    default_project: BakedProject,
) -> None:
    workflow = parse(WORKFLOW, default_project.read(WORKFLOW))
    called = workflow["jobs"]["check"]["uses"]
    ci = parse("ci.yml", default_project.read(called.removeprefix("./")))
    assert "workflow_call" in ci[True]  # YAML's `on`
    assert workflow["jobs"]["image"]["needs"] == "check"
    assert workflow["jobs"]["attest"]["needs"] == "image"
    # A workflow that is called has its caller's name.
    group = ci["concurrency"]["group"].replace("${{ github.workflow }}", workflow["name"])
    assert group.lower() != workflow["concurrency"]["group"].lower()


def test_what_the_image_is_made_of_and_how_goes_with_it(default_project: BakedProject) -> None:
    given = step(default_project, "push")["with"]
    assert (given["push"], given["sbom"], given["provenance"]) == (True, True, "mode=max")
    [attest] = jobs(default_project)["attest"]["steps"]
    shown = jobs(default_project)["image"]["outputs"]
    assert shown["digest"] == "${{ steps.push.outputs.digest }}"
    assert attest["with"]["subject-digest"] == "${{ needs.image.outputs.digest }}"


def workflows() -> list[Path]:
    tree = TEMPLATE / "<<cookiecutter.service_slug>>"
    return sorted(
        each for root in (TEMPLATE, tree) for each in root.glob(".github/workflows/*.yml")
    )


@pytest.mark.parametrize(
    "path", workflows(), ids=lambda path: path.relative_to(TEMPLATE).as_posix()
)
def test_actions_are_pinned_by_commit_with_their_version_beside_it(path: Path) -> None:
    lines = [line for line in path.read_text("utf-8").splitlines() if re.search(r"\buses:", line)]
    assert lines
    pinned = re.compile(
        r"uses: (\./\S+ # zizmor: ignore\[self-repository\]|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$"
    )
    assert [line for line in lines if not pinned.search(line)] == []


def test_one_action_has_one_commit() -> None:
    """In all workflows, and no commit has two versions."""
    found = {
        match
        for path in workflows()
        for match in re.findall(
            r"uses: ([\w-]+/[\w-]+)\S*@(\w{40}) # (v\S+)", path.read_text("utf-8")
        )
    }
    assert len(found) == len({action for action, _, _ in found}), sorted(found)
