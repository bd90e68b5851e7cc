"""A copy that becomes a program behaves as a program that starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import forks
import pytest

PROGRAM = """import os, sys, tempfile
print(sys.argv, os.getcwd(), os.environ.get("OURS"), __name__, tempfile.gettempdir(), sys.dont_write_bytecode)
print(os.path.realpath(sys.path[0]), sys.stdin.read(), oct(os.umask(0)))
print("out", "\\N{CYRILLIC SMALL LETTER A}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("end", "options"),
    [
        pytest.param("pass", [], id="it ends"),
        pytest.param("sys.exit(3)", ["-B"], id="with a code"),
        pytest.param("sys.exit('no')", [], id="with a text"),
        pytest.param("sys.exit(-1)", [], id="with a negative code"),
        pytest.param("import atexit; atexit.register(print, 'last')", [], id="with a last word"),
        pytest.param(
            "import threading, time\n"
            "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()",
            [],
            id="with a thread",
        ),
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", [], id="killed"),
    ],
)
def test_it_is_as_a_start(tmp_path: Path, end: str, options: list[str]) -> None:
    (tmp_path / "program.py").write_text(PROGRAM + end, "utf-8")
    words = [*options, "program.py", "a", "\N{SNOWMAN}"]
    env = {**forks._variables, "OURS": "1", "TMPDIR": str(tmp_path)}
    wanted = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=env,
        umask=0o027,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    found = forks.run(words, cwd=tmp_path, env=env, umask=0o027)
    assert (found.returncode, found.stdout, found.stderr) == (
        wanted.returncode,
        wanted.stdout,
        wanted.stderr,
    )


def test_an_error_is_told_and_the_next_program_knows_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import json\njson.mine = 1\nraise ValueError('this')")
    done = forks.run(["broken.py"], cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.endswith("ValueError: this\n")
    (tmp_path / "next.py").write_text("import json\nprint(hasattr(json, 'mine'))")
    assert forks.run(["next.py"], cwd=tmp_path).stdout == "False\n"


def test_a_module_that_has_changed_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "rabbitmq").mkdir()
    (tmp_path / "rabbitmq" / "script.py").write_text(
        "import beside; print(beside.__file__, beside.X)"
    )
    for value in (1, 2):
        (tmp_path / "rabbitmq" / "beside.py").write_text(f"X = {value}")
        said = forks.run(["-B", "rabbitmq/script.py"], cwd=tmp_path).stdout
        assert said == f"{tmp_path / 'rabbitmq' / 'beside.py'} {value}\n"


def test_who_hangs_is_killed_and_others_come_after_him(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text("import time; time.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run(["hangs.py"], cwd=tmp_path, timeout=0.1)
    assert forks.run(["-m", "this"], cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", ["PYTHONPATH", "LC_ALL", "HOME"])
def test_what_only_a_start_reads_makes_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*_: Any) -> int:
        raise AssertionError("it was a copy")

    monkeypatch.setattr(forks, "call", call)
    (tmp_path / "program.py").write_text(f"import os; print(os.environ[{name!r}])")
    env = {**forks._variables, name: str(tmp_path)}
    assert forks.run(["program.py"], cwd=tmp_path, env=env).stdout == f"{tmp_path}\n"
