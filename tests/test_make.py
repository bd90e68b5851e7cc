"""The generated repository's make targets, as a developer types them on a fresh clone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baked import TEMPLATE, BakedProject, bake_into, outside, with_uv
from local import free_port
from local_node import speaks_amqp
from pages import section, shell_blocks, type_in
from waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.broker, pytest.mark.timeout(900)]

#: Packages come from the index, into the repository's own environment; nothing of ours leaks in.
CLEAN = {"PYTHONPATH": "", "VIRTUAL_ENV": ""}
#: Beside those that wait for the index, in another process with a repository of its own.
RUNS = pytest.mark.xdist_group("make-runs")


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> BakedProject:
    """A repository under another name than the default, which must be as clean."""
    return bake_into(tmp_path_factory.mktemp("weather"), {"service_name": "Weather Bot"})


def make(project: BakedProject, *words: str, **env: str) -> str:
    return project.run("make", *words, env={**CLEAN, **env}, timeout=600).stdout


@contextlib.contextmanager
def in_background(project: BakedProject, target: str, **env: str) -> Iterator[None]:
    """Run a target in another terminal, so to speak, and end it as Ctrl-C does."""
    process = subprocess.Popen(
        ["make", target],
        cwd=project.path,
        env={**outside(), **CLEAN, **env},
        start_new_session=True,
    )
    try:
        yield
        assert process.poll() is None, f"make {target} has ended by itself"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


@pytest.fixture(scope="module")
def before(weather: BakedProject) -> dict[str, str]:
    """The locks as they were before `make lock`, which asks the index about each package."""
    locks = sorted(path.name for path in weather.path.glob("requirements*.txt"))
    assert {"requirements.txt", "requirements-dev.txt"} <= {*locks}
    before = {name: weather.read(name) for name in locks}
    for name in locks:
        os.utime(weather / name, (1, 1))
    make(weather, "lock")
    return before


def test_make_lock_keeps_to_the_metadata(weather: BakedProject, before: dict[str, str]) -> None:
    for name, text in before.items():
        after = weather.read(name)
        # What hasn't changed is left alone, so that nothing is installed again.
        assert (after == text) == ((weather / name).stat().st_mtime == 1)
        assert "://" not in after
    assert not [*weather.path.glob("*.tmp")]
    names = [
        line.split("==")[0] for line in before["requirements.txt"].splitlines() if "==" in line
    ]
    after = weather.read("requirements.txt")
    assert [line.split("==")[0] for line in after.splitlines() if "==" in line] == names
    os.utime(weather / "requirements-dev.txt")
    again = make(weather, "setup", PATH=f"{weather / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    assert "with uv" in again, "uv, which `make lock` has brought, is used where it is found"


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_a_folder_that_was_moved_or_copied_runs_its_own_source(
    how: Callable[[Path, Path], object], tmp_path: Path
) -> None:
    """Its environment leads to where the package was installed from: to nothing, or to the first folder."""
    first = bake_into(tmp_path / "first")
    make(first, "setup", **with_uv())
    assert "installing" not in make(first, "setup", **with_uv()), "once is enough"
    second = BakedProject(tmp_path / "second", first.answers)
    how(first.path, second.path)
    make(second, "setup", **with_uv())
    code = "import neon_echo; print(neon_echo.__file__)"
    found = second.run(".venv/bin/python", "-B", "-c", code, env=CLEAN).stdout
    assert found.startswith(f"{second.path}/")


@RUNS
def test_the_way_without_containers_ends_in_an_answer(weather: BakedProject) -> None:
    """`make broker`, `make run` and `make request`, whose text no shell takes apart."""
    readme = weather.read("README.md")
    assert all(f"`make {words}`" in readme for words in ("broker", "run", 'request TEXT="hi"'))
    port = str(free_port())
    text = 'it\'s "quoted", $(touch pwned) `touch pwned` \\ \U0001f326'
    # Another test may have made it, with pip.
    shutil.rmtree(weather.path / ".venv", ignore_errors=True)
    make(weather, "setup", **with_uv())
    assert "\nuv = " in weather.read(".venv/pyvenv.cfg")
    # Whoever comes later may be without uv.
    weather.run(".venv/bin/python", "-m", "pip", "--version", env=CLEAN)
    with (
        in_background(weather, "broker", MQ_PORT=port),
        in_background(weather, "run", MQ_PORT=port),
    ):
        # Each question below starts a Python.
        eventually(lambda: speaks_amqp(int(port)), 120, "the broker answers", every=0.1)
        deadline = time.monotonic() + 200
        while True:
            done = weather.run(
                "make", "request", env={**CLEAN, "MQ_PORT": port, "TEXT": text}, check=False
            )
            if done.returncode == 0:
                break
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.5)
        # As the README has it, on the command line, where make reads dollars as its own.
        dollars = "it costs $5, says $HOME"
        asked = weather.run("make", "request", f"TEXT={dollars}", env={**CLEAN, "MQ_PORT": port})
        in_place_of = "docker compose exec service python`, that is `.venv/bin/python`"
        assert in_place_of in readme.replace("\n", " ")
        words = ["-m", "weather_bot", "health"]
        weather.run(".venv/bin/python", *words, env={**CLEAN, "MQ_PORT": port})
    assert json.loads(asked.stdout)["echo"] == {"text": dollars}
    assert json.loads(done.stdout)["echo"] == {"text": text}
    assert not weather.has_file("pwned")


@pytest.mark.usefixtures("before")
def test_no_package_may_be_called_like_one_that_the_tools_install(weather: BakedProject) -> None:
    """It would be imported in its place, or hide it."""
    make(weather, "lint")
    variables = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    taken = {name for group in variables["_taken"].values() for name in " ".join(group).split()}
    [packages] = (weather / ".venv").glob("lib/python3*/site-packages")
    found = {
        path.name.split(".")[0]
        for path in packages.iterdir()
        if path.suffix not in (".dist-info", ".pth")
    }
    names = {name for name in found if re.fullmatch("[a-z][a-z0-9_]*", name)}
    assert {"pika", "pytest_timeout", "typing_extensions", "coverage", "mypy"} <= names
    assert sorted(name for name in names - taken if "__mypyc" not in name) == []


@RUNS
def test_make_coverage_reaches_its_threshold(weather: BakedProject) -> None:
    seen = make(weather, "coverage", MQ_PORT=str(free_port()))
    assert re.search(r"^TOTAL .* (9\d|100)%$", seen, re.MULTILINE), seen


@RUNS
def test_make_format_formats_also_where_something_is_left_for_a_person(
    weather: BakedProject,
) -> None:
    """The first tool's complaint about one file would leave the style of all others as it is."""
    mine = weather / "tests" / "mine.py"
    mine.write_text("def f( ):\n  l = 1; return l\n")
    try:
        done = weather.run("make", "format", env=CLEAN, timeout=600, check=False)
        assert mine.read_text() == "def f():\n    l = 1\n    return l\n"
    finally:
        mine.unlink()
    assert done.returncode and "E741" in done.stdout, "an ambiguous name is for a person"
    assert "E702" not in done.stdout, "which formatting has mended"
    make(weather, "format")


def test_a_dependency_is_added_as_the_recipe_says(weather: BakedProject) -> None:
    page = section(weather.read("docs/recipes.md"), "Add a dependency")
    [wanted] = re.findall(r'`("tabulate[^`]+")`', page)
    [block] = shell_blocks(page)
    files = [weather / "pyproject.toml", *weather.path.rglob("*requirements*.txt")]
    before = {file: file.read_text(encoding="utf-8") for file in files}
    old = '    "python-dotenv>=1.2,<2",\n'
    metadata = before[files[0]]
    assert old in metadata
    files[0].write_text(metadata.replace(old, f"{old}    {wanted},\n"), encoding="utf-8")
    try:
        type_in(block, weather.path, with_uv())
        assert re.search(
            r"^tabulate==.*\\\n    --hash=sha256:", weather.read("requirements.txt"), re.MULTILINE
        )
        weather.run(".venv/bin/python", "-c", "import tabulate", env=CLEAN)
    finally:
        for file, text in before.items():
            file.write_text(text, encoding="utf-8")
        uninstall = ("-m", "pip", "uninstall", "--yes", "--quiet", "tabulate")
        weather.run(".venv/bin/python", *uninstall, env=CLEAN, check=False)
