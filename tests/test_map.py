"""The connector's rooms: imports go down, the map is true, and what may be deleted can be."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import brokers
import pytest
from baked import CONNECTOR, TEMPLATE, TREE, BakedProject, bake_into, load
from running import running

figures = load("figures", TEMPLATE / "scripts" / "figures.py")

#: From the bottom to the top; what stands on one line knows nothing of its neighbours. A room within a
#: room, such as `consumer.opened`, stands below what surrounds it.
ORDER = (
    ("errors",),
    ("ending", "fork", "logs"),
    ("first", "payload"),
    ("config",),
    ("handlers",),
    ("connection.wire",),
    ("connection",),
    ("channels", "topology"),
    ("publisher",),
    ("consumer.opened",),
    ("consumer.outbox",),
    ("consumer.channel",),
    ("consumer.workers",),
    ("consumer",),
    ("client", "metrics"),
    ("calling",),
    ("tracing",),
    ("connector",),
    ("testing",),
    ("commands.description", "commands.letters", "commands.reload", "commands.top"),
    ("commands",),
    ("compat",),
)
#: Beside that order: everybody above `errors` may use it, and it uses nothing but `errors`.
HEALTH = "health"
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names}


def name_of(path: Path) -> str:
    """A module's name below the connector, with dots; the connector's own is empty."""
    parts = path.relative_to(CONNECTOR).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(CONNECTOR.rglob("*.py"))}
#: With those within others, but for those that `compat` has because the incumbent has them.
ROOMS = sorted(
    name
    for name, path in MODULES.items()
    if name and path.stem == "__init__" and not name.startswith("compat.")
)
#: Rooms, and modules in the connector's folder.
PLACES = {*ROOMS, *(name for name in MODULES if name and "." not in name)}


def place_of(module: str) -> str:
    """Where a module lies: the innermost place."""
    while module not in PLACES and module:
        module = module.rpartition(".")[0]
    return module


@dataclass(frozen=True)
class Import:
    """That one of the connector's modules imports another."""

    importer: str
    imported: str
    line: int
    #: In a block that only type checkers read.
    for_types: bool

    def __str__(self) -> str:
        importer, imported = self.importer or "__init__", self.imported or "__init__"
        return f"{importer} imports {imported} in line {self.line}"

    @property
    def places(self) -> tuple[str, str]:
        """Where they lie."""
        return place_of(self.importer), place_of(self.imported)


def imports(module: str) -> Iterator[Import]:
    """What a module imports of the connector, wherever in it that stands."""
    path = MODULES[module]
    tree = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    typing = {
        id(each)
        for block in tree
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for each in ast.walk(statement)
    }
    above = [*path.parent.relative_to(CONNECTOR).parts]
    for node in tree:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        assert node.level <= len(above) + 1, f"{module} imports from outside the connector"
        start = [*above[: len(above) - node.level + 1], *filter(None, [node.module])]
        for alias in node.names:
            found = ".".join([*start, alias.name])
            target = found if found in MODULES else ".".join(start)
            yield Import(module, target, node.lineno, id(node) in typing)


@cache
def all_imports() -> list[Import]:
    """What all modules import; found when a test asks, as each of several processes collects this file."""
    return [each for module in MODULES for each in imports(module)]


def test_each_place_has_its_level() -> None:
    assert sorted([*LEVELS, HEALTH]) == sorted(PLACES)


def test_imports_go_down() -> None:
    assert len(all_imports()) > 100
    up = []
    for each in all_imports():
        importer, imported = each.places
        if each.for_types or importer in ("", imported):
            continue  # the connector's own __init__ hands on the names of all
        if importer == HEALTH:
            fine = imported == "errors"
        elif imported == HEALTH:
            fine = importer != "errors"
        else:
            fine = LEVELS[imported] < LEVELS[importer] if imported else False
        if not fine:
            up.append(str(each))
    assert not up


def test_no_module_imports_itself_by_a_detour() -> None:
    """Neither within a room: Python might bear it, a reader doesn't."""
    graph: dict[str, set[str]] = {}
    for each in all_imports():
        if each.importer and not each.for_types:
            graph.setdefault(each.importer, set()).add(each.imported)
    graphlib.TopologicalSorter(graph).prepare()


def test_nothing_but_compat_names_compat() -> None:
    """Neither for type checkers nor in a text that `import_module` might be given."""
    path_of_compat = re.compile(r"\.?([a-z_]+\.)*compat(\.[a-z_]+)*")
    said = [str(each) for each in all_imports() if each.places[1] == "compat" != each.places[0]]
    for module, path in MODULES.items():
        if module.split(".")[0] == "compat":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and path_of_compat.fullmatch(str(node.value)):
                said.append(f"{module or '__init__'} says {node.value!r} in line {node.lineno}")
    assert not said


def test_the_incumbent_is_named_in_compat_alone() -> None:
    """Whoever generates a service needn't know which connector came before this one."""
    said = [
        path.relative_to(TREE).as_posix()
        for path in TREE.rglob("*")
        if path.is_file() and "compat" not in path.relative_to(TREE).parts
        if re.search(b"incumbent", path.read_bytes(), re.IGNORECASE)
    ]
    assert not said


@pytest.mark.parametrize(
    ("module", "needs"), [("config", {"config", "errors", "payload"}), ("health", {"errors"})]
)
def test_what_is_read_in_passing_loads_neither_pika_nor_machinery(
    module: str, needs: set[str]
) -> None:
    code = f"import json, sys, mq_connector.{module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=CONNECTOR.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout)
    assert not [name for name in loaded if name.split(".")[0] == "pika"]
    ours = {name.split(".")[1] for name in loaded if name.startswith("mq_connector.")}
    assert module in ours
    assert ours <= {module, *needs}


def quoted() -> set[str]:
    """Names of files and folders that the map has between back-quotes, outside its blocks."""
    text = (CONNECTOR / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([\w./]+)`", prose))


def test_what_the_map_names_is_there() -> None:
    known = {path.relative_to(CONNECTOR).as_posix() for path in CONNECTOR.rglob("*")}
    names = {path.rpartition("/")[2] for path in known}
    named = {each for each in quoted() if each.endswith(("/", ".py"))}
    assert {f"{room}/" for room in ROOMS} & named, "no room is named in back-quotes"
    missing = [each for each in named if each.rstrip("/") not in known | names]
    assert not missing


def test_the_map_names_every_room_and_module() -> None:
    named = {each.removesuffix(".py").rstrip("/").replace("/", ".") for each in quoted()}
    assert sorted(PLACES - named) == []


#: What tells a reader where something is: by their folders, as they are in the template.
GUIDES = (
    "docs/decisions.md",
    *(path.relative_to(TEMPLATE).as_posix() for path in TEMPLATE.glob("CONTRIBUTING.md")),
    (CONNECTOR / "README.md").relative_to(TEMPLATE).as_posix(),
    (TREE / "CONTRIBUTING.md").relative_to(TEMPLATE).as_posix(),
)
#: A path, of which the beginning may be left out, and a name in Python with a capital in its middle or a dot.
A_PATH = re.compile(
    r"(?:[\w.<>-]+/)*(?:[\w.<>-]+\.(?:py|md|json|sha256|toml|ya?ml|conf|txt)|[\w.<>-]+/)"
)
A_NAME = re.compile(r"[A-Z]\w*[a-z]\w*(?:\.\w+)*")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All files and folders of the template and of what it renders, each with a slash before it."""
    made = bake_into(tmp_path_factory.mktemp("paths"), {}).path
    tops = [each for each in TEMPLATE.iterdir() if each.name == ".ci" or each.name[0] != "."]
    found = {
        f"/{each.relative_to(TEMPLATE).as_posix()}"
        for top in tops
        for each in (top, *top.rglob("*"))
    }
    return found | {f"/{each.relative_to(made).as_posix()}" for each in made.rglob("*")}


def back_quoted(guide: str) -> set[str]:
    """What a guide has between back-quotes; what a template writes into it, as the defaults have it."""
    text = (TEMPLATE / guide).read_text(encoding="utf-8")
    text = text.replace("<< cookiecutter.package_name >>", "neon_echo")
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)))


@pytest.mark.parametrize("guide", GUIDES)
def test_every_path_that_a_guide_names_is_there(guide: str, paths: set[str]) -> None:
    named = {each.rstrip("/") for each in back_quoted(guide) if A_PATH.fullmatch(each)}
    assert named, "no path is named in back-quotes"
    missing = [each for each in named if not any(path.endswith(f"/{each}") for path in paths)]
    assert not missing


@pytest.mark.parametrize("guide", GUIDES)
def test_every_class_that_a_guide_names_is_there(guide: str) -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in TREE.rglob("*.py"))
    known = set(re.findall(r"\w+", code))
    named = {each for each in back_quoted(guide) if A_NAME.fullmatch(each)}
    assert not [each for each in named if not known.issuperset(each.split("."))]


def test_every_module_that_the_connector_s_texts_name_is_there() -> None:
    """With dots, as in the docstring of a class that is part of a protocol of another module's."""
    wrong, looked_at = [], 0
    for path in [*CONNECTOR.rglob("*.py"), *CONNECTOR.rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for dotted in re.findall(r"(?<![\w.])mq_connector\.([a-z]\w*(?:\.\w+)*)", text):
            looked_at += 1
            names = dotted.split(".")
            while names and ".".join(names) not in MODULES:
                names.pop()
            module = MODULES[".".join(names)].read_text(encoding="utf-8")
            rest = dotted.split(".")[len(names) :]
            if not names or not set(rest) <= set(re.findall(r"\w+", module)):
                wrong.append(f"{path.name} names {dotted}")
    assert looked_at > 10
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_a_sentence_what_it_is(room: str) -> None:
    says = ast.get_docstring(ast.parse(MODULES[room].read_text(encoding="utf-8"))) or ""
    [sentence, *_] = says.split("\n\n")
    assert re.fullmatch(r"[A-Z](?:[^.?!]|[.?!](?=[^\s`]))+\.", sentence), repr(sentence)


def test_the_figures_tell_what_is_too_large(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "__init__.py").write_text('"""The top."""\n')
    (room / "__init__.py").write_text('"""A room.\n\nWith more to say."""\n')
    for number in range(10):
        (room / f"file{number}.py").write_text("pass\n" * 300)
    methods = "".join(f"    def m{n}(self):\n        self.a{n % 3}: int = n\n" for n in range(23))
    (tmp_path / "wide.py").write_text(f"class Wide:\n    own: int\n{methods}")
    (tmp_path / "long.py").write_text("\n" * 331)
    top, below = figures.rooms(tmp_path)
    assert (below.name, below.says, below.lines) == ("room/", "A room.", 3003)
    [wide] = [each for file in top.files for each in file.classes]
    assert (wide.name, wide.methods, wide.attributes) == ("Wide", 23, 4)
    assert [line for each in (top, below) for line in figures.excesses(each)] == [
        "./long.py has 331 lines, about 300 are allowed",
        "./wide.py: Wide has 23 methods, about 20 are allowed",
        "room/ has 11 files, 10 at most are allowed",
    ]


def test_hooks_are_small() -> None:
    hooks = sorted((TEMPLATE / "hooks").glob("*.py"))
    assert len(hooks) == 2
    large = [path.name for path in hooks if len(path.read_text("utf-8").splitlines()) > 110]
    assert not large


def test_nothing_is_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    assert figures.main(["--check"]) == 0, capsys.readouterr().err


@pytest.fixture
def without_compat(project: BakedProject) -> BakedProject:
    """A repository whose owner has deleted the incumbent's names, as docs/move-a-service.md allows."""
    shutil.rmtree(project.package / "mq_connector" / "compat")
    return project


def test_without_compat_every_public_name_is_there(without_compat: BakedProject) -> None:
    code = """
import importlib, pkgutil
from neon_echo.mq_connector import *
import neon_echo.mq_connector as top
for module in pkgutil.walk_packages(top.__path__, top.__name__ + "."):
    importlib.import_module(module.name)
print(*(name for name in top.__all__ if name in globals()))
"""
    seen = without_compat.run("python", "-B", "-c", code).stdout.split()
    assert {"MQConnector", "ConsumerThread", "Channel", "Request"} <= {*seen}


def test_without_compat_the_service_s_own_tests_pass(without_compat: BakedProject) -> None:
    words = ["-m", "not broker", "-p", "no:cacheprovider", "--quiet"]
    seen = without_compat.run("python", "-B", "-m", "pytest", *words).stdout
    assert re.search(r"^\d+ passed", seen, re.MULTILINE), seen


@pytest.mark.slow
def test_without_compat_the_types_are_in_order(without_compat: BakedProject) -> None:
    seen = without_compat.run("python", "-m", "mypy", "--cache-dir=/dev/null", timeout=170).stdout
    assert seen.startswith("Success")


@pytest.mark.broker
def test_without_compat_the_service_answers(without_compat: BakedProject, tmp_path: Path) -> None:
    with (
        brokers.installed(without_compat) as port,
        running(without_compat, port, tmp_path / "home") as service,
    ):
        assert service.ask({"text": "hi"})["echo"] == {"text": "hi"}
