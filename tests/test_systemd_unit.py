"""The unit for systemd in docs/operations.md, as printed: systemd's own check of it, and what systemd does with it."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from baked import BakedProject
from brokers import installed
from pages import section, shell_blocks

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]


@pytest.fixture
def unit(project: BakedProject) -> str:
    """The unit, for a repository that lies elsewhere and has its Python from the tests."""
    [block] = shell_blocks(section(project.read("docs/operations.md"), "Without containers"), "ini")
    python = project / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={project / "src"} exec {sys.executable} -B "$@"\n')
    python.chmod(0o755)
    assert block.count("/opt/neon-echo") == 2
    return block.replace("/opt/neon-echo", str(project.path))


def test_systemd_finds_nothing_wrong_with_it(unit: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd on this machine")
    (tmp_path / "neon-echo.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "./neon-echo.service"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    # What it says of other units of this machine is none of our business.
    assert [line for line in done.stderr.splitlines() if "neon-echo" in line] == []


def test_it_starts_in_an_empty_environment_is_found_and_ends_in_time(
    unit: str, project: BakedProject
) -> None:
    parsed = configparser.ConfigParser()
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(unit)
    says = parsed["Service"]
    user = project.answers["package_name"]
    assert (says["User"], says["KillMode"], says["Restart"]) == (user, "mixed", "always")
    words, folder = says["ExecStart"].split(), says["WorkingDirectory"]
    with installed(project) as port:
        with (project / ".env").open("a") as settings:
            settings.write(f"MQ_PORT={port}\n")
        bare = {"PATH": "/usr/bin:/bin"}
        login = {**bare, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"}
        process = subprocess.Popen(words, cwd=folder, env=bare)
        try:
            deadline = time.monotonic() + 60
            asking = [*words, "health"]
            while subprocess.run(asking, cwd=folder, env=login, capture_output=True).returncode:
                assert process.poll() is None
                assert time.monotonic() < deadline, "it isn't found by whoever has logged in"
                time.sleep(0.05)
        finally:
            process.terminate()
        assert process.wait(float(says["TimeoutStopSec"])) == 0
