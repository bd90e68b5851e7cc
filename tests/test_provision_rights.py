"""Who may read what provision.py makes, and whose it is."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import provisioning
import pytest
import yaml
from baked import SECRETS, BakedProject, bake_into
from pages import section, shell_blocks
from provisioning import CONFIG, COOKIE, DEFINITIONS, everything, provision


@pytest.fixture
def clone(project: BakedProject) -> BakedProject:
    return provisioning.clone(project)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_reads_the_credentials_but_the_broker_reads_its_files(
    clone: BakedProject, umask: int
) -> None:
    (clone / "rabbitmq/rabbitmq.conf").chmod(0o600)  # as a strict umask leaves it at a clone
    assert provision(clone, umask=umask).returncode == 0
    modes = {
        name: stat.S_IMODE((clone / name).stat().st_mode)
        for name in (*SECRETS, "rabbitmq/rabbitmq.conf")
    }
    assert modes[CONFIG] == modes[".env"] == 0o600
    assert modes[DEFINITIONS] == 0o640
    assert modes["rabbitmq/rabbitmq.conf"] == 0o644


def test_what_cant_be_written_leaves_the_old_file_and_no_other(clone: BakedProject) -> None:
    provision(clone)
    before = everything(clone)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    done = provision(clone, "--client-user", preexec_fn=no_room)
    assert (done.returncode, everything(clone)) == (1, before)
    assert len(done.stderr.splitlines()) == 1
    assert provision(clone, "--client-user").returncode == 0


def test_the_broker_reads_the_definitions_by_their_group_and_nobody_else(
    clone: BakedProject,
) -> None:
    provision(clone)
    group = int(clone.read(".env").split("SERVICE_GID=")[1])
    made = (clone / DEFINITIONS).stat()
    assert (made.st_gid, stat.S_IMODE(made.st_mode)) == (group, 0o640)
    compose = yaml.safe_load(clone.read("compose.yaml"))["services"]["rabbitmq"]
    assert compose["group_add"] == ["${SERVICE_GID:-10001}"]
    (clone / DEFINITIONS).chmod(0o600)  # as a strict umask makes what an editor writes
    assert "not readable for the broker" in provision(clone, "--check").stdout
    assert provision(clone).returncode == 0
    assert stat.S_IMODE((clone / DEFINITIONS).stat().st_mode) == 0o640
    (clone / DEFINITIONS).chmod(0o644)
    assert f"chmod 640 {DEFINITIONS}" in provision(clone, "--check").stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root, and give files away")
def test_definitions_of_another_group_are_given_to_the_brokers(clone: BakedProject) -> None:
    provision(clone)
    os.chown(clone / DEFINITIONS, -1, 4711)
    assert provision(clone, "--check").returncode == 1
    provision(clone)
    assert (clone / DEFINITIONS).stat().st_gid == 10001


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_group_that_one_doesnt_belong_to_is_named(tmp_path: Path) -> None:
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        baked = bake_into(Path(folder), settings_folder=tmp_path / "settings")
        made = provisioning.clone(baked)
        (made / ".env").write_text("SERVICE_GID=4712\n")
        for path in [Path(folder), *Path(folder).rglob("*")]:
            os.chown(path, 4711, 4711, follow_symlinks=False)
        # All is loaded before: this Python may lie where nobody else gets at it.
        script = "import os, sys; sys.path.insert(0, 'rabbitmq'); import provision; "
        script += (
            "os.setgroups([]), os.setgid(4711), os.setuid(4711); provision.provision(None, False)"
        )
        done = made.run("python", "-B", "-c", script)
    assert f"{DEFINITIONS}: can't be given to group 4712" in done.stdout, done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("owner", [4711, 4712], ids=["the same number", "another number"])
def test_what_is_restored_elsewhere_is_for_the_containers_there(tmp_path: Path, owner: int) -> None:
    """By the block of docs/operations.md, for whoever has which number on the other machine."""
    if not shutil.which("python3", path=os.defpath):
        pytest.skip("no Python of the system's that an ordinary user could run")
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        baked = bake_into(Path(folder), settings_folder=tmp_path / "settings")
        kept = {name: baked.read(name) for name in (".env", CONFIG, DEFINITIONS)}
        kept[".env"] = kept[".env"].replace("=10001", "=4711") + "MQ_PASSWORD=secret\n"
        second = provisioning.clone(baked)
        (second / "backup").mkdir()
        for name, text in kept.items():
            copy = second / "backup" / Path(name).name
            copy.write_text(text)
            copy.chmod(0o600)
        for path in [Path(folder), *Path(folder).rglob("*")]:
            os.chown(path, owner, owner, follow_symlinks=False)
        [block, *_] = shell_blocks(section(second.read("docs/operations.md"), "Restore"))
        done = subprocess.run(
            ["bash", "-uc", block],
            cwd=second.path,
            env={"PATH": os.defpath, "HOME": folder},
            user=owner,
            group=owner,
            extra_groups=[],
            umask=0o022,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "belongs to" not in done.stdout and "can't" not in done.stdout
        for name in (CONFIG, DEFINITIONS):
            assert second.read(name) == kept[name]
        assert f"\nSERVICE_UID={owner}\nSERVICE_GID={owner}\n" in second.read(".env")
        assert "\nMQ_PASSWORD=secret\n" in second.read(".env")
        for name in (*kept, COOKIE):
            status = (second / name).stat()
            mode = 0o640 if name in (DEFINITIONS, COOKIE) else 0o600
            assert (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, owner), name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_read_the_credentials_is_not_told_to_remove_them(tmp_path: Path) -> None:
    """As an administrator who lets another user's service in at the broker."""
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        baked = bake_into(Path(folder), settings_folder=tmp_path / "settings")
        Path(folder).chmod(0o755)
        # All is loaded before: this Python may lie where nobody else gets at it.
        script = "import os, sys; sys.path.insert(0, 'rabbitmq'); import provision; "
        script += "os.setgroups([]), os.setgid(4711), os.setuid(4711); sys.exit(provision.main([]))"
        done = baked.run("python", "-B", "-c", script, check=False)
    assert done.returncode == 1 and done.stderr == (
        f"provision.py: {CONFIG} can't be read (Permission denied): "
        "run this as the user whose it is, or as root\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root, and give files away")
def test_root_leaves_the_credentials_to_a_user_without_rights(clone: BakedProject) -> None:
    assert "given" not in provision(clone).stdout  # it is theirs from the beginning
    assert "SERVICE_UID=10001\nSERVICE_GID=10001\n" in clone.read(".env")
    os.chown(clone / CONFIG, 0, 0)  # as an editor does that writes a new file
    assert "given to user 10001" in provision(clone).stdout
    status = (clone / CONFIG).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (10001, 10001, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root, and give files away")
def test_root_works_for_the_user_whose_repository_it_is(clone: BakedProject) -> None:
    os.chown(clone.path, 4711, 4712)
    provision(clone)
    assert "SERVICE_UID=4711\nSERVICE_GID=4712\n" in clone.read(".env")
    assert {(clone / name).stat().st_uid for name in SECRETS} == {4711}


def test_a_link_to_the_configuration_stays_a_link(clone: BakedProject, tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere.json"
    kept.write_text("{}", encoding="utf-8")
    (clone / CONFIG).symlink_to(kept)
    provision(clone)
    assert (clone / CONFIG).is_symlink()
    assert "neon_echo" in json.loads(kept.read_text())["users"]


def test_credentials_that_others_may_read_are_reported_and_left_alone(clone: BakedProject) -> None:
    provision(clone)
    assert "chmod" not in provision(clone).stdout
    (clone / CONFIG).chmod(0o644)
    assert f"chmod 600 {CONFIG}" in provision(clone).stdout
    provision(clone, "--client-user")  # which writes it anew
    assert stat.S_IMODE((clone / CONFIG).stat().st_mode) == 0o644
