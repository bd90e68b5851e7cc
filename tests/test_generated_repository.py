"""The generated repository's own commands, as its README prints them, on a machine without its tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from baked import BakedProject, bake_into, outside, with_uv
from conftest import Count
from pages import shell_blocks, type_in

pytestmark = [pytest.mark.slow, pytest.mark.broker, pytest.mark.timeout(600)]


def test_the_contributors_commands_pass_with_nothing_skipped(
    project: BakedProject, record_property: Count
) -> None:
    if not shutil.which("rabbitmq-server", path="/usr/sbin:/usr/bin:/usr/local/sbin"):
        pytest.skip("no rabbitmq-server on this machine")
    [block] = shell_blocks(project.read("CONTRIBUTING.md"))
    assert block == "make lint\nmake test\n"
    seen = type_in(block, project.path, {"MAKEFLAGS": "", "MQ_PORT": "1", **with_uv()})
    assert "Success: no issues found" in seen
    record_property("shell blocks run", block)
    result = re.search(r"(\d+) passed(.*) in ", seen)
    assert result, seen
    assert int(result[1]) >= 8
    assert result[2] == "", seen


#: Longest that a package, a login and a folder are likely to be called.
LONGEST, LOGIN, FOLDER = "a" + 61 * "b" + "c", 32 * "l", 60 * "f"
#: A number that no user of this machine has.
NOBODY = 54321


class Anybody:
    """An ordinary user of this machine, who has a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._options: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._options = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self.own()
        # Root's Python may lie where nobody else gets at it; what it has installed is Python, too.
        self._path = sysconfig.get_path("purelib")
        usable = (each for each in (sys.executable, "/usr/bin/python3") if self._can_run(each))
        self._python = next(usable, None)
        if self._python is None:
            pytest.skip(f"an ordinary user of this machine can't run {sys.executable}")

    def own(self) -> None:
        """What has been put into the folder is this user's."""
        for path in [self.folder, *self.folder.rglob("*")] if self._options else []:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    def python(
        self, project: BakedProject, *words: str, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in a project."""
        self.own()
        environment = {
            **outside(),
            "PYTHONPATH": f"{project / 'src'}:{self._path}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.folder),
            "LOGNAME": LOGIN,
            **env,
        }
        return subprocess.run(
            [self._python or "", *words],
            cwd=project.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            **self._options,
        )

    def _can_run(self, python: str) -> bool:
        command = [python, "-c", "import pika, pytest"]
        env = {**os.environ, "PYTHONPATH": self._path}
        try:
            done = subprocess.run(command, cwd=self.folder, env=env, **self._options)
        except OSError:
            return False
        return done.returncode == 0


@pytest.fixture
def anybody() -> Iterator[Anybody]:
    """An ordinary user, whose folder goes with the test."""
    with tempfile.TemporaryDirectory(prefix="anybody-", dir="/tmp") as folder:
        yield Anybody(Path(folder))


def test_its_tests_pass_for_an_ordinary_user_and_with_the_longest_names(anybody: Anybody) -> None:
    """A socket's path may have 103 bytes on some systems, and pytest's folders are deep.

    A name that is usual is in the test above.
    """
    project = bake_into(anybody.folder / "made", {"package_name": LONGEST})
    pytest_options = ["-q", "-p", "no:cacheprovider", f"--basetemp={anybody.folder / FOLDER}"]
    # With a port that nobody has, so that it takes a broker of its own.
    # And with a setting that is for the container, as .env may have one.
    environment = {"MQ_PORT": "1", "MQ_METRICS_PORT": "in the container"}
    done = anybody.python(project, "-m", "pytest", *pytest_options, **environment)
    result = re.search(r"(\d+) passed(.*) in ", done.stdout)
    assert result and int(result[1]) >= 8, done.stdout + done.stderr
    if "no rabbitmq-server" not in done.stdout:
        assert result[2] == "", done.stdout


def test_it_runs_in_a_folder_whose_name_is_too_long_for_a_socket(anybody: Anybody) -> None:
    project = bake_into(anybody.folder / "made", {"package_name": LONGEST})
    deep = anybody.folder / FOLDER / FOLDER
    deep.mkdir(parents=True)
    code = (
        f"from {LONGEST}.mq_connector.health import HealthServer, check\n"
        f"server = HealthServer({LONGEST!r}, lambda done: done(''))\n"
        f"print(check({LONGEST!r}))\n"
        "server.close()"
    )
    done = anybody.python(project, "-c", code, XDG_RUNTIME_DIR=str(deep))
    assert done.stdout == "(True, 'consuming')\n", done.stderr
