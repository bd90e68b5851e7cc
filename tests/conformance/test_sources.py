"""Where a configuration is found, in which order, and in which wrapping: the same for both."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from baked import CONNECTOR, outside

from .conftest import python
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
    if "CONFORMANCE_SERVICE" in os.environ:
        connector = import_module(sys.argv[1] + ".connector").MQConnector
        found = dict(connector(None, os.environ["CONFORMANCE_SERVICE"]).service_config)
    else:
        config = import_module(sys.argv[1] + ".config").load_neon_mq_config()
        found = {key: config.get(key) for key in ("server", "port", "users")}
    print("RESULT " + repr(found), flush=True)
    os._exit(0)
"""

# Each asks both implementations, which read their files anew.
pytestmark = pytest.mark.slow

#: What an implementation finds in a home; with a file named, and with other variables, if asked to.
Find = Callable[..., Any]


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Find]:
    """`find(kind, home, named, **variables)`."""
    processes: dict[str, subprocess.Popen[str]] = {}
    log = tmp_path_factory.mktemp("sources") / "stderr.log"

    def start(kind: str) -> subprocess.Popen[str]:
        command = [python(kind), "-B", "-c", PROGRAM, PACKAGES[kind], str(CONNECTOR.parent)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("ab")}
        return subprocess.Popen(command, **pipes, text=True)  # type: ignore[call-overload,no-any-return]

    def found(kind: str, home: Path, named: bool, **variables: str) -> Any:
        process = processes[kind] = processes.get(kind) or start(kind)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({**_environment(home, named), **variables}) + "\n")
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
@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"XDG_CONFIG_HOME": "~/xdg"}, "~/xdg/neon/mq_config.json"),
        ({"XDG_CONFIG_HOME": "~/xdg"}, "~/xdg/neon/diana.yaml"),
        ({"XDG_CONFIG_DIRS": "~/other"}, "~/other/neon/diana.yaml"),
        ({"MYCROFT_SYSTEM_CONFIG": "~/elsewhere.yaml"}, "~/elsewhere.yaml"),
        ({"OVOS_CONFIG_BASE_FOLDER": "other"}, "~/.config/other/diana.yaml"),
        ({"OVOS_CONFIG_FILENAME": "other.yaml"}, "~/.config/neon/other.yaml"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_variable_moves_a_place(
    find: Find, tmp_path: Path, variables: dict[str, str], place: str, kind: str
) -> None:
    path = tmp_path / place.removeprefix("~/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"MQ": _config("moved")}))  # JSON is YAML
    moved = {name: value.replace("~", str(tmp_path)) for name, value in variables.items()}
    assert find(kind, tmp_path, False, **moved) == _config("moved")
    if not any("OVOS" in name for name in variables):
        # At its usual place the same file isn't looked for any more.
        assert find(kind, tmp_path, False) != _config("moved")


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_service_finds_its_own_entry(find: Find, tmp_path: Path, kind: str) -> None:
    _write(tmp_path, "user", "broker.example", wrapped=True)
    assert find(kind, tmp_path, False, CONFORMANCE_SERVICE="weather") == {
        "user": "somebody",
        "username": "somebody",
        "password": "p",
    }


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
