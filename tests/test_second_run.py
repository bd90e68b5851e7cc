"""Tests that fail beside others are run again alone; nothing else that ends a run is forgiven."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from baked import TEMPLATE, outside

TESTS = Path(__file__).parent
SCRIPTS = [TEMPLATE / "scripts" / name for name in ("second_run.py", "interrupts.py")]
MAKEFILE = """
WORKERS ?= 2
test:
\t{python} -B -m pytest -p side_by_side --numprocesses $(WORKERS) --dist loadgroup $(PYTEST_ARGS)
"""
#: The last one passes when it is alone; the first one dies, or fails, if it is told to.
SUITE = """
import os
import pytest

def test_dies():
    if os.path.exists("die"):
        os._exit(3)
    assert not os.path.exists("fail")

@pytest.mark.xfail
def test_is_known_to_fail():
    assert False

def test_passes():
    open("passed", "a").write("once ")

@pytest.mark.parametrize("what", ["a 'quoted' $HOME id"])
def test_fails_beside_others(what):
    assert "PYTEST_XDIST_WORKER" not in os.environ
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=folder,
        env={**outside(), "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=250,
    )


def copy_scripts(folder: Path) -> None:
    (folder / "scripts").mkdir()
    for script in SCRIPTS:
        shutil.copy(script, folder / "scripts")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    copy_scripts(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['alone']\n")
    (tmp_path / "Makefile").write_text(MAKEFILE.format(python=sys.executable))
    (tmp_path / "test_all.py").write_text(SUITE)
    return tmp_path


def run_again(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-B", "scripts/second_run.py")


@pytest.mark.slow
def test_what_passes_alone_is_no_failure_and_is_named(suite: Path) -> None:
    assert run(suite, "make", "test").returncode == 2
    second = run_again(suite)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1 passed in" in second.stdout
    assert (suite / "passed").read_text() == "once "
    name = "test_all.py::test_fails_beside_others[a 'quoted' $HOME id]"
    assert second.stdout.endswith(
        "[second run] no failure: beside others these have failed, and alone each has passed:\n"
        f"[second run]   {name}\n"
    )


@pytest.mark.slow
def test_what_fails_again_and_what_kills_its_process_is_a_failure(suite: Path) -> None:
    (suite / "fail").touch()
    assert run(suite, "make", "test").returncode == 2
    second = run_again(suite)
    assert second.returncode == 1
    assert "1 failed, 1 passed in" in second.stdout
    assert second.stdout.endswith("not all of them have passed alone: a failure\n")
    (suite / "die").touch()
    assert run(suite, "make", "test").returncode == 2
    second = run_again(suite)
    assert second.returncode == 1
    assert "none: a process has died in test_all.py::test_dies" in second.stdout
    # In the second run as well: the process that died has had a successor, which died no more.
    assert (suite / "passed").read_text() == 2 * "once "


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (None, "the tests have left no word"),
        ("{", "the tests have left no word"),
        ({"exit": 4, "failed": ["a"]}, "exit code 4"),
        ({"exit": 2, "failed": ["a"]}, "exit code 2"),
        ({"exit": 1, "failed": []}, "0 tests have failed"),
        ({"exit": 1, "failed": [str(n) for n in range(16)]}, "16 tests have failed"),
        ({"exit": 1, "failed": ["a"], "died": ["b"]}, "a process has died in b"),
    ],
)
def test_other_ends_than_a_few_failures_get_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Any, reason: str
) -> None:
    copy_scripts(tmp_path)
    (tmp_path / "Makefile").write_text("test:\n\techo they run again\n")
    (tmp_path / ".cache").mkdir()
    if outcome is not None:
        known: dict[str, list[str]] = {"skipped": [], "died": []}
        text = outcome if isinstance(outcome, str) else json.dumps({**known, **outcome})
        (tmp_path / ".cache" / "outcome.json").write_text(text)
    second = run_again(tmp_path)
    assert second.returncode == 1
    assert f"[second run] none: {reason}" in second.stdout.replace("the tests ended with ", "")
    assert "again" not in second.stdout


def test_a_test_that_is_skipped_then_has_not_passed(tmp_path: Path) -> None:
    copy_scripts(tmp_path)
    (tmp_path / ".cache").mkdir()
    found = {"exit": 1, "failed": ["a"], "skipped": [], "died": []}
    (tmp_path / ".cache" / "outcome.json").write_text(json.dumps(found))
    second = json.dumps({"exit": 0, "failed": [], "skipped": ["a"], "died": []})
    (tmp_path / "Makefile").write_text(f"test:\n\t@echo '{second}' > .cache/outcome.json\n")
    assert run_again(tmp_path).returncode == 1
