"""Ctrl-C while a program loads: it ends, and no traceback of an import is shown."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from baked import TEMPLATE, BakedProject

#: The template's own programs, but for what they import first.
SCRIPTS = sorted({*(TEMPLATE / "scripts").glob("*.py")} - {TEMPLATE / "scripts" / "interrupts.py"})
#: Presses Ctrl-C when a module is imported; as `sitecustomize`, which Python imports at its start.
PRESSES = """import os, signal, sys

class Presses:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT_IMPORT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presses())
"""
PACKAGE = ("-m", "neon_echo")
CONNECTOR = "neon_echo.mq_connector"


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (("rabbitmq/provision.py", "--check"), "argparse"),
        (("rabbitmq/provision.py", "--check"), "subprocess"),
        (("rabbitmq/provision.py", "--check"), "accounts"),
        (("rabbitmq/local.py",), "argparse"),
        (("rabbitmq/local.py",), "local_node"),
        ((*PACKAGE, "health"), CONNECTOR),
        ((*PACKAGE, "health"), f"{CONNECTOR}.commands.command_line"),
        ((*PACKAGE, "health"), f"{CONNECTOR}.health"),
        ((*PACKAGE, "describe"), "argparse"),
        ((*PACKAGE, "describe"), "pika"),
        ((*PACKAGE, "describe"), f"{CONNECTOR}.commands.description"),
        ((*PACKAGE, "run", "--reload"), f"{CONNECTOR}.commands.reload"),
        *(pytest.param((str(script),), "pathlib", id=script.stem) for script in SCRIPTS),
        ((str(TEMPLATE / "scripts" / "demo.py"),), "cookiecutter"),
        (("-m", "bench"), "argparse"),
        (("-m", "bench"), "bench.lab"),
        (("-m", "soak"), "connector.functional.broker"),
    ],
)
def test_ctrl_c_while_a_program_loads_shows_no_traceback(
    project: BakedProject, tmp_path: Path, words: tuple[str, ...], module: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PRESSES)
    path = os.pathsep.join(map(str, (tmp_path, project / "src", TEMPLATE, TEMPLATE / "tests")))
    done = project.run(
        sys.executable,
        "-B",
        *words,
        check=False,
        env={"PYTHONPATH": path, "AT_IMPORT": module},
    )
    assert done.returncode in (130, -signal.SIGINT), done.stdout + done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1, done.stderr
