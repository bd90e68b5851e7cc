"""Where a configuration is found, in which order, and in which wrapping: the same for both."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from baked import CONNECTOR, outside

from .lab import PACKAGES

#: Every place, in the order in which they count; `~` is the home.
PLACES = {
    "named": "~/somewhere/mq.json",
    "user": "~/.config/neon/mq_config.json",
    "credentials": "~/.local/share/neon/credentials.json",
    "system's diana.yaml": "~/etc/neon/diana.yaml",
    "user's diana.yaml": "~/.config/neon/diana.yaml",
    "old diana.yaml": "~/.neon/diana.yaml",
}
#: Has what an implementation needs in memory, and tells for one environment a line, in a process of
#: its own each, what is found there.
PROGRAM = """
import json, logging, os, sys
from importlib import import_module
sys.path[:0] = sys.argv[2:]
logging.disable(logging.CRITICAL)
if sys.argv[1].startswith("neon"):
    import ovos_utils.log, ovos_utils.json_helper, ovos_utils.file_utils, pika, pydantic, yaml
for line in sys.stdin:
    if os.fork():
        os.wait()
        continue
    os.environ.clear()
    os.environ.update(json.loads(line))
    os.chdir(os.environ["HOME"])
    config = import_module(sys.argv[1] + ".config").load_neon_mq_config()
    print("RESULT " + repr({key: config.get(key) for key in ("server", "port", "users")}), flush=True)
    os._exit(0)
"""

Find = Callable[[str, Path, bool], Any]


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Find]:
    """What an implementation finds in a home: `find(kind, home, named)`."""
    processes: dict[str, subprocess.Popen[str]] = {}
    log = tmp_path_factory.mktemp("sources") / "stderr.log"

    def start(kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-B", "-c", PROGRAM, PACKAGES[kind], str(CONNECTOR.parent)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("ab")}
        return subprocess.Popen(command, **pipes, text=True)  # type: ignore[call-overload,no-any-return]

    def found(kind: str, home: Path, named: bool) -> Any:
        process = processes[kind] = processes.get(kind) or start(kind)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(_environment(home, named)) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("RESULT "):
                return ast.literal_eval(line.removeprefix("RESULT "))
        raise AssertionError(log.read_text())

    yield found
    for process in processes.values():
        process.kill()
        process.communicate()


def _config(server: str) -> dict[str, Any]:
    users = {"weather": {"user": "somebody", "username": "somebody", "password": "p"}}
    return {"server": server, "port": 5673, "users": users}


def _write(home: Path, place: str, server: str, wrapped: bool) -> None:
    path = home / PLACES[place].removeprefix("~/")
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"MQ": _config(server)} if wrapped else _config(server)
    path.write_text(yaml.safe_dump(config) if path.suffix == ".yaml" else json.dumps(config))


def _environment(home: Path, named: bool) -> dict[str, str]:
    found = {
        **outside(),
        "HOME": str(home),
        "XDG_CONFIG_DIRS": str(home / "etc"),
        "OVOS_CONFIG_BASE_FOLDER": "neon",
        "OVOS_CONFIG_FILENAME": "diana.yaml",
    }
    found.pop("XDG_CONFIG_HOME", None)
    if named:
        found["NEON_MQ_CONFIG_PATH"] = "~/somewhere/mq.json"
    return found


@pytest.mark.parametrize("kind", PACKAGES)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
@pytest.mark.parametrize("place", PLACES)
def test_each_place_gives_the_same_configuration(
    find: Find, tmp_path: Path, place: str, wrapped: bool, kind: str
) -> None:
    _write(tmp_path, place, "broker.example", wrapped)
    assert find(kind, tmp_path, place == "named") == _config("broker.example")


@pytest.mark.parametrize("kind", PACKAGES)
@pytest.mark.parametrize(
    ("first", "second"), list(itertools.pairwise(PLACES)), ids=lambda place: place
)
def test_an_earlier_place_counts(
    find: Find, tmp_path: Path, first: str, second: str, kind: str
) -> None:
    for place in (first, second):
        _write(tmp_path, place, place, wrapped=True)
    assert find(kind, tmp_path, first == "named")["server"] == first


@pytest.mark.parametrize("kind", PACKAGES)
def test_the_files_of_diana_add_up(find: Find, tmp_path: Path, kind: str) -> None:
    for place, config in {
        "old diana.yaml": {"server": "old", "port": 1, "users": {"weather": {"user": "old"}}},
        "user's diana.yaml": {"server": "new", "users": {"weather": {"password": "p"}}},
    }.items():
        path = tmp_path / PLACES[place].removeprefix("~/")
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump({"lang": "en", "MQ": config}))
    users = {"weather": {"user": "old", "password": "p"}}
    assert find(kind, tmp_path, False) == {"server": "new", "port": 1, "users": users}
