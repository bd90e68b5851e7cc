"""The generated repository's own commands, as its README prints them, on a machine without its tools."""

from __future__ import annotations

import re
import shutil

import pytest
from baked import BakedProject

pytestmark = [pytest.mark.slow, pytest.mark.broker, pytest.mark.timeout(600)]


def make(project: BakedProject, *words: str) -> str:
    """Run make as a user would, who has neither the tests' Python path nor their environment."""
    variables = {"PYTHONPATH": "", "VIRTUAL_ENV": "", "MAKEFLAGS": "", "MQ_PORT": "1"}
    done = project.run("make", *words, env=variables, timeout=500)
    return done.stdout + done.stderr


def test_make_test_passes_with_nothing_skipped(project: BakedProject) -> None:
    if not shutil.which("rabbitmq-server", path="/usr/sbin:/usr/bin:/usr/local/sbin"):
        pytest.skip("no rabbitmq-server on this machine")
    seen = make(project, "test")
    result = re.search(r"(\d+) passed(.*) in ", seen)
    assert result, seen
    assert int(result[1]) >= 8
    assert result[2] == "", seen


def test_make_lint_passes(project: BakedProject) -> None:
    assert "Success: no issues found" in make(project, "lint")
