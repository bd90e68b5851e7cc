"""What `make` does before anything else, on machines that lack something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from baked import TEMPLATE, load

#: What a program of this folder finds what it imports first in.
SCRIPTS = str(TEMPLATE / "scripts")
ensure_broker = load("ensure_broker", TEMPLATE / "scripts" / "ensure_broker.py")
NONE = "no rabbitmq-server on this machine: apt-get install rabbitmq-server"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine whose parts can be taken away."""

    def be(troubles: list[str], engine: bool, root: bool = False) -> list[str]:
        done: list[str] = []
        monkeypatch.setattr(ensure_broker, "trouble", lambda: troubles.pop(0))
        monkeypatch.setattr(ensure_broker, "has_engine", lambda: engine)
        monkeypatch.setattr(ensure_broker, "install", lambda: done.append("installed"))
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr(ensure_broker.shutil, "which", lambda _: "/usr/bin/apt-get")
        return done

    return be


def test_an_installed_rabbitmq_is_enough(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert not machine([""], engine=False)
    assert ensure_broker.main() == 0
    assert capsys.readouterr() == ("", "")


def test_root_gets_the_package_installed(machine: Any) -> None:
    done = machine([NONE, ""], engine=False, root=True)
    assert ensure_broker.main() == 0
    assert done == ["installed"]


def test_others_are_told_in_one_line_what_to_type(
    machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    done = machine([NONE], engine=False)
    assert ensure_broker.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "apt-get install rabbitmq-server" in said
    assert not done


def test_an_engine_will_do(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(["RabbitMQ 3.9.13 is too old, 3.10 or newer is needed"], engine=True)
    assert ensure_broker.main() == 0
    assert "too old" in capsys.readouterr().out


def test_without_a_server_in_sight_the_script_says_so(tmp_path: Path) -> None:
    """For real: nothing on the path, and root has no apt-get there."""
    code = (
        f"import sys, runpy, shutil; sys.path.append({SCRIPTS!r}); shutil.which = lambda *a, **k: None; "
        f"runpy.run_path({str(TEMPLATE / 'scripts' / 'ensure_broker.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("no rabbitmq-server on this machine: ")


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 8, 18)])
def test_a_python_that_is_too_old_is_told_so_and_not_with_a_traceback(
    version: tuple[int, int, int], tmp_path: Path
) -> None:
    script = TEMPLATE / "scripts" / "venv.py"
    code = (
        f"import sys, runpy; sys.path.append({SCRIPTS!r}); sys.version_info = {version!r}; "
        "sys.argv[1:] = ['x', 'demo']; "
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "too old, 3.10 is needed" in done.stdout
