"""What all tests share: the connector where it lies, and repositories made from the template."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cookiecutter import hooks

# A background job of a shell ignores SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is imported and collected stays to the end: looking through it again and again finds nothing to free.
gc.disable()

# Until it is said where bytecode may be kept: beside the connector it would be rendered, too.
sys.dont_write_bytecode = True
sys.path[:0] = [str(Path(__file__).resolve().parent)]

import memory  # noqa: E402

memory.use()

import bytecode  # noqa: E402
import forks  # noqa: E402
from baked import IMPORTABLE, TEMPLATE, BakedProject, bake_into  # noqa: E402

sys.path[:0] = IMPORTABLE
bytecode.keep(TEMPLATE, TEMPLATE / "tests", *TEMPLATE.glob(".venv*"))

Bake = Callable[..., BakedProject]
#: pytest's own `record_property`, by which a test says how many of something it has tried.
Count = Callable[[str, object], None]

pytest_plugins = ["side_by_side", "lending"]


@pytest.fixture(scope="session", autouse=True)
def quick_hooks() -> Iterator[None]:
    """Start hooks in little time, and remove the copies that cookiecutter renders into the temporary folder
    and leaves there."""
    runs = hooks.run_script

    def run_once(script: str, *rest: Any) -> None:
        try:
            runs(script, *rest)
        finally:
            Path(script).unlink()

    with (
        mock.patch.object(hooks, "run_script", run_once),
        mock.patch.object(hooks, "subprocess", forks.HOOKS),
    ):
        yield


@pytest.fixture
def bake(tmp_path: Path) -> Bake:
    """Generate a repository: `bake(service_name="Weather")`, each in a folder of its own."""
    count = 0

    def run(**options: str) -> BakedProject:
        nonlocal count
        count += 1
        return bake_into(tmp_path / f"bake-{count}", options)

    return run


@pytest.fixture(scope="session")
def default_project(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """A repository with all defaults, made once. Only to look at: change a `project` instead."""
    return bake_into(tmp_path_factory.mktemp("default"))


@pytest.fixture
def project(default_project: BakedProject, tmp_path: Path) -> BakedProject:
    """A copy of the default repository, with the same credentials, to run and to change."""
    path = tmp_path / default_project.path.name
    shutil.copytree(default_project.path, path, symlinks=True)
    if os.geteuid() == 0:
        # The containers' users read these, and a copy belongs to whoever makes it.
        for name in ("mq_config.json", "rabbitmq/definitions.json"):
            owner = (default_project / name).stat()
            os.chown(path / name, owner.st_uid, owner.st_gid)
    return BakedProject(path, default_project.answers)


def pytest_collection_finish() -> None:
    """What a test imports, from a generated repository for one, stays as it is; what it leaves is freed."""
    sys.dont_write_bytecode = True
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave a trace in the report of what a test needs."""
    for need in ("broker", "containers"):
        if item.get_closest_marker(need):
            item.user_properties.append(("needs", need))


#: What is counted over all tests: numbers are added up, texts count once each.
COUNTED = ("answers tried", "pairs rendered", "shell blocks run", "tags updated from")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many tests ran on the real thing, how many could not, and what was tried how often."""
    for need, what in (("broker", "a real RabbitMQ"), ("containers", "real containers")):
        ran, skipped = (
            sum(("needs", need) in report.user_properties for report in reports)
            for reports in (
                [r for state in ("passed", "failed") for r in terminalreporter.getreports(state)],
                terminalreporter.getreports("skipped"),
            )
        )
        terminalreporter.write_line(f"on {what}: {ran} tests ran, {skipped} were skipped")
    passed = terminalreporter.getreports("passed")
    said = []
    for name in COUNTED:
        found = [value for report in passed for key, value in report.user_properties if key == name]
        if found:
            texts = {value for value in found if isinstance(value, str)}
            numbers = [value for value in found if isinstance(value, int)]
            said.append(f"{len(texts) + sum(numbers)} {name}")
    if said:
        terminalreporter.write_line(", ".join(said))
