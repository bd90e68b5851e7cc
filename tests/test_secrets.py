"""Secrets stay where they belong: in files that git doesn't see and others can't read."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
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


#: What people and editors make of a secret file: in the repository's folder, beside it, among the sources.
COPIES = [
    ".env.local",
    ".env.bak",
    ".env~",
    ".env.production",
    ".env.swp",
    "#.env#",
    ".#.env",
    "production.env",
    "mq_config.json.bak",
    "mq_config.json~",
    "mq_config.json.orig",
    "#mq_config.json#",
    ".#mq_config.json",
    ".mq_config.json.swp",
    "mq_config.json.20260101",
    "old-mq_config.json",
    "rabbitmq/definitions.json.bak",
    "rabbitmq/definitions.json~",
    "rabbitmq/.definitions.json.swp",
    "rabbitmq/erlang.cookie~",
    "src/neon_echo/erlang.cookie",
    "src/neon_echo/mq_config.json",
    "src/neon_echo/.env",
    "src/neon_echo/.env.local",
    "src/neon_echo/mq_config.json~",
    "src/definitions.json.save",
    "src/neon_echo/secrets.bak",
]


def test_git_sees_no_copy_of_a_secret(project: BakedProject) -> None:
    before = project.files()
    for name in COPIES:
        (project / name).write_text("secret")
    project.run("git", "init", "--quiet")
    project.run("git", "add", "--all")
    tracked = set(project.run("git", "ls-files").stdout.splitlines())
    assert tracked == before - set(SECRETS)


@pytest.mark.containers
@pytest.mark.slow
def test_no_copy_of_a_secret_goes_into_an_image(project: BakedProject, tmp_path: Path) -> None:
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        pytest.skip("no Docker engine on this machine")
    for name in COPIES:
        (project / name).write_text("secret")
    # All that a Dockerfile could copy, so that it doesn't hang on what this one does copy.
    (project / "Dockerfile").write_text('FROM scratch\nCOPY . /\nCMD ["none"]\n')
    identity = project.run("docker", "build", "--quiet", ".").stdout.strip()
    container = project.run("docker", "create", identity).stdout.strip()
    try:
        project.run("docker", "export", "--output", str(tmp_path / "files.tar"), container)
    finally:
        project.run("docker", "rm", container)
        project.run("docker", "image", "rm", identity)
    with tarfile.open(tmp_path / "files.tar") as files:
        names = set(files.getnames())
    assert "src/neon_echo/service.py" in names
    assert names & {*COPIES, *SECRETS} == set()
