"""Keeping a generated repository up to date with the template, by cruft."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from baked import SECRETS, copy_template

pytestmark = pytest.mark.slow

README = "<<cookiecutter.service_slug>>/README.md"


def commit(repository: Path) -> None:
    """Commit all there is, as nobody in particular."""
    who = {
        f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--no-gpg-sign", "-m", "x"]):
        subprocess.run(["git", *words], cwd=repository, env={**os.environ, **who}, check=True)


def cruft(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cruft", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_cruft_creates_checks_and_updates_without_touching_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    template = copy_template(tmp_path / "template")
    commit(template)
    url = template.as_uri()
    created = cruft(tmp_path, "create", url, "--no-input", "--default-config")
    assert created.returncode == 0, created.stdout + created.stderr
    project = tmp_path / "neon-echo"
    before = {name: (project / name).read_bytes() for name in SECRETS}
    noted = (project / ".cruft.json").read_text(encoding="utf-8")
    assert not [line for line in noted.splitlines() if "password" in line]
    commit(project)
    assert cruft(project, "check").returncode == 0
    same = cruft(project, "diff", "--exit-code")
    assert same.returncode == 0, same.stdout

    with (template / README).open("a", encoding="utf-8") as file:
        file.write("\nFrom a later template.\n")
    commit(template)
    assert cruft(project, "check").returncode == 1
    updated = cruft(project, "update", "--skip-apply-ask")
    assert updated.returncode == 0, updated.stdout + updated.stderr
    assert (project / "README.md").read_text("utf-8").endswith("From a later template.\n")
    assert cruft(project, "check").returncode == 0
    assert {name: (project / name).read_bytes() for name in SECRETS} == before
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True
    )
    assert {line.split()[1] for line in status.stdout.splitlines()} == {".cruft.json", "README.md"}
