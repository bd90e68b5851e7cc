"""What the template renders: which files, that they parse, and that answers stay data in them."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from baked import (
    CONNECTOR,
    TEMPLATE,
    TREE,
    BakedProject,
    bake_into,
    command_line,
    copy_template,
    parse,
)
from conftest import Bake
from cookiecutter.exceptions import FailedHookException
from packaging.requirements import Requirement

#: The repository that the defaults give, but for the connector's own files.
DEFAULT_TREE = {
    ".devcontainer/compose.yaml",
    ".devcontainer/devcontainer.json",
    ".editorconfig",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "SECURITY.md",
    ".dockerignore",
    ".env",
    ".env.example",
    ".gitattributes",
    ".github/dependabot.yml",
    ".github/workflows/ci.yml",
    ".github/workflows/release.yml",
    ".gitignore",
    ".template.json",
    "CONTRIBUTING.md",
    "docs/handlers.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "compose.cluster.yaml",
    "compose.yaml",
    "deploy/kubernetes/base/deployment.yaml",
    "deploy/kubernetes/base/disruption.yaml",
    "deploy/kubernetes/base/kustomization.yaml",
    "deploy/kubernetes/base/network.yaml",
    "deploy/kubernetes/copy_secrets.py",
    "deploy/kubernetes/overlays/broker/cluster.yaml",
    "deploy/kubernetes/overlays/broker/kustomization.yaml",
    "deploy/kubernetes/overlays/broker/names.yaml",
    "deploy/kubernetes/overlays/hpa/autoscaler.yaml",
    "deploy/kubernetes/overlays/hpa/kustomization.yaml",
    "deploy/kubernetes/overlays/keda/kustomization.yaml",
    "deploy/kubernetes/overlays/keda/names.yaml",
    "deploy/kubernetes/overlays/keda/scaler.yaml",
    "docs/calling.md",
    "docs/kubernetes.md",
    "docs/observability.md",
    "docs/operations.md",
    "docs/recipes.md",
    "docs/scaling.md",
    "mq_config.json",
    "observability/alerts.yml",
    "observability/grafana/dashboard.json",
    "observability/grafana/dashboards.yaml",
    "observability/grafana/datasource.yaml",
    "observability/prometheus.yml",
    "pyproject.toml",
    "rabbitmq/accounts.py",
    "rabbitmq/at_broker.py",
    "rabbitmq/at_engine.py",
    "rabbitmq/cluster.conf",
    "rabbitmq/cookie.py",
    "rabbitmq/declared.py",
    "rabbitmq/definitions.json",
    "rabbitmq/documents.py",
    "rabbitmq/enabled_plugins",
    "rabbitmq/env_file.py",
    "rabbitmq/erlang.cookie",
    "rabbitmq/local.py",
    "rabbitmq/local_node.py",
    "rabbitmq/local_server.py",
    "rabbitmq/neon.py",
    "rabbitmq/owners.py",
    "rabbitmq/provision.py",
    "rabbitmq/rotation.py",
    "rabbitmq/rabbitmq.conf",
    "rabbitmq/topology.py",
    "requirements-dev.txt",
    "requirements-observability.txt",
    "requirements.txt",
    "src/neon_echo/__init__.py",
    "src/neon_echo/__main__.py",
    "src/neon_echo/service.py",
    "tests/conftest.py",
    "tests/test_handler.py",
    "tests/test_integration.py",
}
#: The default name in every spelling that is derived from it.
DEFAULT_NAME = re.compile("neon[ _-]?echo", re.IGNORECASE)
#: What the template's syntax looks like, in whatever is left of it.
MARKERS = re.compile(r"cookiecutter|<<[^\n]*>>|<%|%>|<#|#>|^\s*#%", re.IGNORECASE | re.MULTILINE)
#: The one shape in which the template writes an answer: whole on its line, and either made of
#: cookiecutter's variables or the name of one that was set from them.
PLACEHOLDER = re.compile(r"<< (?:[a-z]+|[^<>\n]*\bcookiecutter\.[^<>\n]*) >>")


def connector_files() -> dict[str, bytes]:
    found = (path for path in CONNECTOR.rglob("*") if "__pycache__" not in path.parts)
    return {
        path.relative_to(CONNECTOR).as_posix(): path.read_bytes()
        for path in found
        if path.is_file()
    }


def test_the_default_rendering_has_exactly_the_designed_tree(default_project: BakedProject) -> None:
    vendored = {f"src/neon_echo/mq_connector/{name}" for name in connector_files()}
    assert default_project.path.name == "neon-echo"
    assert default_project.files() - vendored == DEFAULT_TREE
    assert vendored <= default_project.files()


def test_the_connector_is_copied_byte_for_byte(default_project: BakedProject) -> None:
    folder = default_project.package / "mq_connector"
    assert {name: (folder / name).read_bytes() for name in connector_files()} == connector_files()


def test_rendering_in_tests_leaves_nothing_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    bake_into(tmp_path / "whole")
    with pytest.raises(FailedHookException):
        bake_into(tmp_path / "refused", {"service_slug": "a b"})
    assert command_line(tmp_path / "typed", "service_slug=a b").returncode
    assert list(temporary.iterdir()) == []


def test_every_rendered_file_parses(default_project: BakedProject) -> None:
    for name in default_project.files():
        parse(name, default_project.read(name))


def test_another_name_leaves_no_marker_and_no_default_name(bake: Bake) -> None:
    project = bake(service_name="Weather Bot")
    for name in project.files():
        assert not DEFAULT_NAME.search(name) and not MARKERS.search(name), name
        for pattern in (DEFAULT_NAME, MARKERS):
            found = pattern.search(project.read(name))
            assert not found, f"{name} has {found.group() if found else ''!r}"


def test_the_template_uses_its_delimiters_for_answers_only() -> None:
    """A YAML merge key, a heredoc or a shift would be taken for the start of a placeholder."""
    for path in TREE.rglob("*"):
        cached = any(part.endswith(("_cache", "__pycache__")) for part in path.parts)
        if path.is_file() and CONNECTOR not in path.parents and not cached:
            rest = PLACEHOLDER.sub("", path.read_text(encoding="utf-8"))
            found = re.search("<<|<%|<#|#>", rest)
            assert not found, f"{path.relative_to(TREE)} has {found.group() if found else ''!r}"


def test_caches_of_tools_run_on_the_template_are_not_passed_on(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    tree = template / TREE.name
    places = [CONNECTOR, CONNECTOR.parent, TREE / "rabbitmq", TREE]
    for folder, name in itertools.product(
        places, ["__pycache__", ".ruff_cache/0.1", ".mypy_cache"]
    ):
        cache = tree / folder.relative_to(TREE) / name
        cache.mkdir(parents=True)
        (cache / "cached").write_bytes(b"\xff\0 << broken")
    project = bake_into(tmp_path / "out", template=template)
    assert project.has_file("mq_config.json")
    assert not [name for name in project.files() if "cache" in name]


@pytest.mark.parametrize(
    ("license", "first_words", "expression"),
    [
        ("BSD-3-Clause", "BSD 3-Clause License", "BSD-3-Clause"),
        ("MIT", "MIT License", "MIT"),
        ("Proprietary", "Copyright (c) Ada Lovelace. All", "LicenseRef-Proprietary"),
    ],
)
def test_a_licence_is_one_file_and_an_expression_in_the_metadata(
    bake: Bake, license: str, first_words: str, expression: str
) -> None:
    project = bake(license=license, author_name="Ada Lovelace")
    assert [name for name in project.files() if "LICENSE" in name] == ["LICENSE"]
    assert project.read("LICENSE").startswith(first_words)
    assert "Copyright (c) Ada Lovelace" in project.read("LICENSE")
    assert project.metadata()["project"]["license"] == expression


@pytest.mark.parametrize("python_version", ["3.10", "3.14"])
def test_the_chosen_python_is_that_of_the_image_and_of_ci(bake: Bake, python_version: str) -> None:
    project = bake(python_version=python_version)
    assert f'ARG PYTHON_VERSION="{python_version}"' in project.read("Dockerfile").splitlines()
    jobs = parse("ci.yml", project.read(".github/workflows/ci.yml"))["jobs"]
    asked = [step["with"] for job in jobs.values() for step in job["steps"] if "with" in step]
    versions = {given["python-version"] for given in asked if "python-version" in given}
    assert versions == {python_version, "${{ matrix.python }}"}
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["python"] == [python_version]
    assert {each["python"] for each in matrix["include"]} == {"3.10", "3.14"}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_pin_what_the_metadata_asks_for_with_hashes(
    default_project: BakedProject, name: str
) -> None:
    asked = list(default_project.metadata()["project"]["dependencies"])
    text = default_project.read(name)
    # A package may have a version for each Python; then a condition stands behind it.
    pins = re.findall(r"^([a-z-]+)==(\S+)(?: ; .+)? \\$", text, re.MULTILINE)
    if name == "requirements.txt":
        assert {Requirement(line).name for line in asked} == {package for package, _ in pins}
    else:
        more = default_project.metadata()["project"]["optional-dependencies"]
        asked += [line for group in ("build", "test", "lint") for line in more[group]]
        asked += default_project.metadata()["build-system"]["requires"]
    for requirement in map(Requirement, asked):
        found = [version for package, version in pins if package == requirement.name]
        assert found and all(map(requirement.specifier.contains, found)), requirement
    # Nothing is there without one, and no line but pins and hashes: no address of an index either.
    hashes = re.findall(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$", text, re.MULTILINE)
    assert len(hashes) >= len(pins) and len(hashes) + len(pins) == text.count("\n")


def test_both_locks_have_the_same_versions_of_what_the_service_needs(
    default_project: BakedProject,
) -> None:
    dev = default_project.read("requirements-dev.txt").splitlines()
    assert [*filter(None, default_project.read("requirements.txt").splitlines())]
    for line in default_project.read("requirements.txt").splitlines():
        assert line in dev or f"{line} \\" in dev


def test_scripts_and_only_scripts_are_executable(default_project: BakedProject) -> None:
    for name in default_project.files():
        script = default_project.read(name).startswith("#!")
        mode = (default_project / name).stat().st_mode
        assert bool(mode & 0o100) == script, f"{name} has mode {mode:o}"


def test_make_alone_says_what_there_is_to_make(default_project: BakedProject) -> None:
    said = default_project.run("make").stdout
    targets = ["setup", "run", "request", "broker", "up", "down", "watch", "test", "lint", "lock"]
    assert [target for target in targets if f"make {target} " not in said] == []


@pytest.mark.parametrize("target", ["up", "watch", "down"])
def test_without_docker_make_says_what_does_without_it(
    default_project: BakedProject, tmp_path: Path, target: str
) -> None:
    for name in ("sh", "sed", "git", "make"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    words = ["make", target, f"PYTHON={sys.executable}"]
    done = default_project.run(*words, env={"PATH": str(tmp_path)}, check=False)
    said, of_make = done.stderr.splitlines()
    assert said == "docker isn't here: make broker and, in another terminal, make run do without it"
    assert done.returncode == 2 and of_make.startswith("make: ***")


def test_what_is_said_after_rendering_has_a_way_without_docker(
    bake: Bake, capfd: pytest.CaptureFixture[str]
) -> None:
    project = bake()
    said = capfd.readouterr().out.splitlines()
    start = said.index("Or without it, each in a terminal of its own:")
    with_docker, without = (
        said[said.index("Next, with Docker:") : start],
        said[start + 1 : start + 4],
    )
    assert with_docker[1] == f"  cd {project.path}"
    targets = [line.removeprefix("  make ") for line in without]
    assert targets == ["broker", "run", "request"]
    assert [each for each in targets if f"\n{each}: " not in project.read("Makefile")] == []


def test_cookiecutter_drops_a_name_that_it_does_not_know(bake: Bake) -> None:
    """No hook is told of it."""
    readme = " ".join((TEMPLATE / "README.md").read_text(encoding="utf-8").split())
    assert "(`servicename=…`) it drops without a word" in readme
    assert bake(servicename="Weather Bot").answers["service_name"] == "Neon Echo"


def test_at_most_ten_questions_are_asked_and_each_is_a_sentence() -> None:
    variables = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    questions = [name for name in variables if not name.startswith("_")]
    assert len(questions) <= 10
    for name in questions:
        asked = variables["__prompts__"][name]
        sentence = asked if isinstance(asked, str) else asked["__prompt__"]
        assert len(sentence.split()) >= 3, name


def test_an_editor_finds_what_the_tests_import_from_the_scripts(project: BakedProject) -> None:
    """They put the folder into the path as they run, which a type checker doesn't see."""
    tree = ast.parse(project.read("tests/conftest.py"))
    imports = [each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    assert [each for each in imports if project.has_file(f"rabbitmq/{each}.py")] == ["local"]
    assert project.metadata()["tool"]["pyright"]["extraPaths"] == ["rabbitmq"]
