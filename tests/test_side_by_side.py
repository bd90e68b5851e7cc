"""Tests in several processes: the same ones, none disturbed, and with a word on how long they take."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import bytecode
import pytest
from baked import outside
from estimate import Left, read
from groups import longest_first
from leftovers import Leftovers, descendants
from results import update
from waiting import eventually

# Each starts Python several times.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TESTS = Path(__file__).parent
COMMAND = ["--numprocesses", "3", "--dist", "loadgroup"]

#: Two groups that wait for each other, so that they must run at the same time, each in its order;
#: two tests that want to be alone; and some others.
SUITE = """
import os, time
import bytecode
import pytest

HERE = os.path.dirname(__file__)

@pytest.fixture
def running():
    running = os.path.join(HERE, f"running-{os.getpid()}")
    open(running, "w").close()
    yield
    os.remove(running)

@pytest.mark.alone
@pytest.mark.parametrize("number", range(2))
def test_alone(running, number):
    for _ in range(30):
        assert [each for each in os.listdir(HERE) if each.startswith("running-")] == [
            f"running-{os.getpid()}"
        ]
        time.sleep(0.01)

@pytest.mark.parametrize("number", range(20))
def test_quick(running, number):
    time.sleep(0.02)

@pytest.fixture(scope="module", params=["a@b", "[c]"])
def shared(request):
    open(os.path.join(HERE, f"met-{request.param}"), "w").close()
    deadline = time.monotonic() + 60
    while len([each for each in os.listdir(HERE) if each.startswith("met-")]) < 2:
        assert time.monotonic() < deadline, "the other group isn't run"
        time.sleep(0.01)
    return []

@pytest.mark.parametrize("number", range(4))
def test_in_order(running, shared, number):
    shared.append(number)
    assert shared == list(range(number + 1))
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The folder of a suite that knows whether it is run as it should be."""
    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\nmarkers = ['alone']\naddopts = ['-p', 'side_by_side']\n"
    )
    (tmp_path / "test_all.py").write_text(SUITE)
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-m", "pytest", *words],
        cwd=folder,
        env={**outside(), "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=150,
    )


def test_groups_stay_together_and_who_wants_to_be_alone_is_while_the_others_are_side_by_side(
    suite: Path,
) -> None:
    done = run(suite, *COMMAND)
    assert "30 passed in" in done.stdout, done.stdout + done.stderr
    assert "[0 of 30 tests done, about " in done.stdout
    noted = read(suite / ".cache" / "durations.json")
    names = {"test_all.py", *(f"test_all.py@{each}" for each in ("alone", "all-a-b", "all--c-"))}
    assert set(noted) == names
    assert noted["test_all.py@alone"] >= 0.3


def test_what_the_command_leaves_out_is_counted(suite: Path) -> None:
    done = run(suite, *COMMAND, "-k", "quick")
    assert "20 passed, 10 deselected in" in done.stdout, done.stdout + done.stderr


def test_half_a_surrogate_pair_in_a_log_ends_no_test_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\nmarkers = ['alone']\naddopts = ['-p', 'side_by_side']\n"
    )
    (tmp_path / "test_all.py").write_text(
        "import logging\n\n"
        "def test_logs():\n    logging.warning('half: \\ud83d')\n\n"
        "def test_fails():\n    assert 'half: \\ud83d' == ''\n\n"
        "def test_another():\n    pass\n"
    )
    done = run(tmp_path, *COMMAND)
    assert "1 failed, 2 passed in" in done.stdout, done.stdout + done.stderr
    assert "half: \\ud83d" in done.stdout


def test_an_interrupt_ends_the_processes_and_what_their_tests_have_started(tmp_path: Path) -> None:
    """As a terminal does it, and as a supervisor does: to all of them, or to the first alone."""
    (tmp_path / "test_long.py").write_text(
        "import os, subprocess, sys, time, pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def child():\n"
        "    child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    yield child\n"
        "    time.sleep(7)\n"  # as long as a broker may take, and pytest-xdist doesn't wait
        "    child.kill()\n"
        "    child.wait()\n"
        "    open(f'ended-{child.pid}', 'w').close()\n"
        "@pytest.mark.parametrize('number', range(2))\n"
        "def test_long(child, number):\n"
        "    open(f'child-{child.pid}', 'w').close()\n"  # from here on an interrupt finds the fixture made
        "    time.sleep(600)\n"
    )
    for send in (os.killpg, os.kill):
        for old in [*tmp_path.glob("child-*"), *tmp_path.glob("ended-*")]:
            old.unlink()
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "pytest", "-p", "side_by_side", *COMMAND, "-n", "2"],
            cwd=tmp_path,
            env={**outside(), "PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            eventually(lambda: len(list(tmp_path.glob("child-*"))) == 2, 60, "both have begun")
            send(process.pid, signal.SIGINT)
            said, _ = process.communicate(timeout=150)
        finally:
            process.kill()
        assert process.returncode == 2, said
        children = [each.name.removeprefix("child-") for each in tmp_path.glob("child-*")]
        assert all((tmp_path / f"ended-{each}").exists() for each in children), said
        assert not [each for each in children if alive(int(each))]


def test_what_outlives_an_interrupt_is_killed(tmp_path: Path) -> None:
    code = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); "
    with subprocess.Popen([sys.executable, "-c", code + "time.sleep(600)"]) as first:
        try:
            eventually(lambda: descendants(first.pid), 20, "it has a child")
            [(child, _)] = descendants(first.pid)
            leftovers = Leftovers(tmp_path, first.pid)
            leftovers.pytest_keyboard_interrupt()
            leftovers.pytest_unconfigure()
            eventually(lambda: not alive(child), 10, "its child has ended")
            assert alive(first.pid)
        finally:
            first.kill()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_longest_group_goes_first_and_those_who_run_alone_last() -> None:
    tests = ["a.py::x", "b.py::x", "c.py::x", "c.py::y", "d.py::x"]
    groups = {"a.py::x": "alone", "c.py::x": "c", "c.py::y": "c"}
    seconds = {"a.py@alone": 100.0, "b.py": 5.0, "c.py@c": 3.0, "d.py": 1.0}
    assert longest_first(tests, groups, seconds) == [2, 3, 1, 4, 0]


def test_what_is_left_follows_the_pace_of_what_is_done() -> None:
    tests = {f"a.py::{number}": 10.0 for number in range(20)}
    left = Left({**tests, "a.py::x": 30.0}, {"a.py::x"}, workers=4)
    assert str(left) == "[0 of 21 tests done, about 1 min 20 s left]"
    for test in list(tests)[:10]:
        left.tick(test, 20.0)  # half as fast as it was before
    assert str(left) == "[10 of 21 tests done, about 1 min 50 s left]"


def add(file: Path, number: int) -> None:
    for each in range(20):
        update(file, lambda known: [*known, [number, each]], [])  # noqa: B023


def test_bytecode_is_kept_of_tests_and_never_beside_what_is_rendered(tmp_path: Path) -> None:
    for folder in ("template/tests", "template/connector", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{folder[-3:]}_module.py").write_text("")
    code = (
        "import bytecode, pathlib, sys\n"
        "bytecode.keep(pathlib.Path('template').resolve(), pathlib.Path('template/tests').resolve())\n"
        "sys.path += [str(each.resolve()) for each in map(pathlib.Path, sys.argv[1:])]\n"
        "import sts_module, tor_module, ere_module"
    )
    command = [
        sys.executable,
        "-B",
        "-c",
        code,
        "template/tests",
        "template/connector",
        "elsewhere",
    ]
    subprocess.run(command, cwd=tmp_path, env={**outside(), "PYTHONPATH": str(TESTS)}, check=True)
    kept = {path.parent.name for path in tmp_path.rglob("__pycache__")}
    assert kept == {"tests", "elsewhere"}


def test_a_service_has_bytecode_lent_and_what_changes_afterwards_counts(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("def")
    source = package / "one.py"
    source.write_text("VALUE = 1")
    times = source.stat()
    bytecode.lend(package)
    code = (
        "import importlib.util as util, package.one as one\n"
        "print(one.VALUE, one.__file__, sep='|')\n"
        "kept = open(util.cache_from_source(one.__file__), 'rb').read()\n"
        "print(util.source_hash(open(one.__file__, 'rb').read()) == kept[8:16])"
    )

    def run() -> list[str]:
        words = [sys.executable, "-B", "-c", code]
        return subprocess.check_output(words, cwd=tmp_path, text=True).splitlines()

    assert run() == [f"1|{source}", "True"]
    # As long as before, and at the same time.
    source.write_text("VALUE = 2")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run() == [f"2|{source}", "False"]


def test_a_file_of_results_keeps_what_each_of_several_processes_adds(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    context: Any = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add, args=(file, number)) for number in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    found = json.loads(file.read_text())
    assert sorted(found) == [[number, each] for number in range(3) for each in range(20)]
