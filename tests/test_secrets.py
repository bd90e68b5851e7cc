"""Secrets stay where they belong: in files that git doesn't see and others can't read."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from baked import SECRETS, BakedProject, command_line
from conftest import Bake


def passwords(project: Path) -> set[str]:
    users = json.loads((project / "mq_config.json").read_text(encoding="utf-8"))["users"]
    return {user["password"] for user in users.values()}


def test_each_rendering_has_a_long_password_of_its_own(bake: Bake) -> None:
    first, second = passwords(bake().path), passwords(bake().path)
    assert all(len(password) >= 32 for password in first | second)
    assert not first & second


def test_only_the_owner_reads_the_credentials(default_project: BakedProject) -> None:
    for name in ("mq_config.json", ".env"):
        assert stat.S_IMODE((default_project / name).stat().st_mode) == 0o600, name


def test_no_password_stays_in_hooks_replay_output_or_other_files(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = command_line(tmp_path / "out", TMPDIR=str(temporary))
    project = tmp_path / "out" / "neon-echo"
    assert done.returncode == 0, done.stderr
    assert len([*temporary.glob("*.py")]) == 2, "cookiecutter leaves both rendered hooks behind"
    assert [*tmp_path.glob("out-settings/replay/*.json")]
    looked_at = [path for path in tmp_path.rglob("*") if path.is_file()]
    for password in passwords(project):
        assert password not in done.stdout + done.stderr
        holders = {path for path in looked_at if password.encode() in path.read_bytes()}
        assert holders == {project / "mq_config.json"}


def test_git_sees_no_secret(project: BakedProject) -> None:
    project.run("git", "init", "--quiet")
    project.run("git", "add", "--all")
    tracked = project.run("git", "ls-files").stdout.splitlines()
    assert set(tracked) == project.files() - set(SECRETS)
    assert set(SECRETS) <= project.files()


def test_a_second_rendering_over_the_first_keeps_the_credentials(tmp_path: Path) -> None:
    assert command_line(tmp_path / "out").returncode == 0
    project = tmp_path / "out" / "neon-echo"
    before = {name: (project / name).read_bytes() for name in SECRETS}
    assert command_line(tmp_path / "out", "--overwrite-if-exists").returncode == 0
    assert {name: (project / name).read_bytes() for name in SECRETS} == before
