"""Where a generated repository comes from: address, version and commit, also without cruft."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import forks
import pytest
from baked import TEMPLATE, BakedProject, bake_into, copy_template, settings

STAMP = ".template.json"
VERSION = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["_version"]


def git(folder: Path, *words: str) -> str:
    """Run git as nobody in particular; returns what it printed."""
    who = {
        f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    command = ["git", "-c", "commit.gpgSign=false", *words]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **who}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The template in a git repository, all committed."""
    folder = copy_template(tmp_path / "neon-mq-template")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")
    return folder


def stamp(project: BakedProject) -> dict[str, Any]:
    note: dict[str, Any] = json.loads(project.read(STAMP))
    return note


def test_it_names_address_version_commit_and_answers(tmp_path: Path, template: Path) -> None:
    project = bake_into(tmp_path / "out", {"service_name": "Wetter Ü"}, template=template)
    note = stamp(project)
    assert note["template"] == str(template)
    assert note["commit"] == git(template, "rev-parse", "HEAD")
    assert note["version"] == VERSION
    assert note["answers"] == {k: v for k, v in project.answers.items() if not k.startswith("_")}
    assert project.read(STAMP).count("Wetter Ü") == 1


@pytest.mark.parametrize("typed", ["../template", "./../template/", "template"])
def test_a_template_that_is_named_from_where_one_stands_is_found_later(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    """cookiecutter runs the hook in the new folder, from which that name leads elsewhere."""
    there = tmp_path if typed == "template" else tmp_path / "work"
    there.mkdir(exist_ok=True)
    template.rename(tmp_path / "template")
    config = settings(tmp_path / "settings")
    command = ["-m", "cookiecutter", "--no-input", "--config-file", str(config), typed]
    env = {**os.environ, "PWD": str(there), "TMPDIR": str(config.parent)}
    done = forks.run(command, cwd=there, env=env)
    assert done.returncode == 0, done.stderr
    note = json.loads((there / "neon-echo" / STAMP).read_text(encoding="utf-8"))
    assert note["template"] == str(tmp_path / "template")
    assert note["commit"] == git(tmp_path / "template", "rev-parse", "HEAD")


def test_a_template_with_edits_says_so_and_other_files_don_t_count(
    tmp_path: Path, template: Path
) -> None:
    (template / "notes.txt").write_text("mine")
    clean = stamp(bake_into(tmp_path / "clean", template=template))["commit"]
    assert re.fullmatch("[0-9a-f]{40}", clean)
    [readme] = template.glob("<<*/README.md")
    readme.write_text(readme.read_text("utf-8") + "\nMine.\n", "utf-8")
    assert stamp(bake_into(tmp_path / "out", template=template))["commit"] == f"{clean}-dirty"


def test_a_template_without_a_repository_of_its_own_has_no_commit(
    tmp_path: Path, template: Path
) -> None:
    """Unpacked from an archive, within somebody's repository."""
    (template / ".git").rename(tmp_path / ".git")
    inside = copy_template(tmp_path / "within" / "template")
    assert stamp(bake_into(tmp_path / "out", template=inside))["commit"] is None


def test_it_is_made_without_git(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    note = stamp(bake_into(tmp_path / "out", template=template))
    assert (note["template"], note["commit"]) == (str(template), None)


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://me:secret@example.org/org/template.git", "https://example.org/org/template.git"),
        ("git@example.org:org/template.git", "git@example.org:org/template.git"),
        ("ssh://git@example.org/org/template", "ssh://git@example.org/org/template"),
    ],
)
def test_the_address_is_the_one_that_was_cloned_without_a_login(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch, origin: str, address: str
) -> None:
    """cookiecutter clones what is typed, such as `gh:org/template`, and renders its clone."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{template}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", origin)
    out = tmp_path / "out"
    out.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({
        "cookiecutters_dir": str(tmp_path / "clones"), "replay_dir": str(tmp_path / "replay"),
        "abbreviations": {"mine": origin.replace("template", "{0}")},
    }))  # fmt: skip
    from cookiecutter.main import cookiecutter

    rendered = cookiecutter(
        "mine:template", no_input=True, output_dir=str(out), config_file=str(config)
    )
    text = (Path(rendered) / STAMP).read_text("utf-8")
    assert json.loads(text)["template"] == address
    assert json.loads(text)["commit"] == git(template, "rev-parse", "HEAD")
    assert "secret" not in text


def test_it_costs_no_line_in_any_other_file(default_project: BakedProject) -> None:
    note = stamp(default_project)
    for name in default_project.files() - {STAMP}:
        if not name.startswith("src/neon_echo/mq_connector/"):
            text = default_project.read(name)
            assert VERSION not in text and str(note["commit"]) not in text, name
            assert note["template"] not in text, name
