"""Print the connector's figures, room by room: files, lines, classes with their methods and attributes.

Exits with 1 and a line for each where a room, a file or a class is larger than the house's rules allow;
with --check that is all it prints.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent / "<<cookiecutter.service_slug>>"
CONNECTOR = TREE / "src" / "<<cookiecutter.package_name>>" / "mq_connector"
#: Files in a room, and about how many lines a file and methods a class may have.
FILES, LINES, METHODS = 10, 300, 20
#: What "about" means.
ABOUT = 1.1


@dataclass(frozen=True)
class Class:
    """A class without what it inherits."""

    name: str
    #: A property counts once, however many functions it is made of.
    methods: int
    #: What its methods set on `self`, and what its body declares for its instances.
    attributes: int


@dataclass(frozen=True)
class File:
    """A module."""

    name: str
    lines: int
    classes: tuple[Class, ...]


@dataclass(frozen=True)
class Room:
    """A folder of modules; the connector's own is called ``./``."""

    name: str
    #: The first line of its docstring.
    says: str
    files: tuple[File, ...]

    @property
    def lines(self) -> int:
        return sum(file.lines for file in self.files)


def rooms(connector: Path = CONNECTOR) -> Iterator[Room]:
    """Each folder with modules in it, the connector's own first."""
    for top in sorted(connector.rglob("__init__.py"), key=lambda path: path.parent.parts):
        folder = top.parent
        says = (ast.get_docstring(ast.parse(top.read_text(encoding="utf-8"))) or "").partition("\n")
        files = tuple(measure(path) for path in sorted(folder.glob("*.py")))
        yield Room(f"{folder.relative_to(connector).as_posix()}/", says[0], files)


def measure(path: Path) -> File:
    """Look at one module."""
    text = path.read_text(encoding="utf-8")
    found = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef))
    classes = (
        Class(node.name, len({each.name for each in functions(node)}), len(set(attributes(node))))
        for node in sorted(found, key=lambda node: node.lineno)
    )
    return File(path.name, text.count("\n"), tuple(classes))


def functions(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Those that are defined in a class's body."""
    return [each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]


def attributes(node: ast.ClassDef) -> Iterator[str]:
    """Names of a class's instance attributes; some more than once."""
    for each in node.body:
        # As dataclasses and protocols have them.
        if (
            isinstance(each, ast.AnnAssign)
            and isinstance(each.target, ast.Name)
            and "ClassVar" not in ast.unparse(each.annotation)
        ):
            yield each.target.id
    for method in functions(node):
        for inner in ast.walk(method):
            if (
                isinstance(inner, ast.Attribute)
                and isinstance(inner.ctx, ast.Store)
                and isinstance(inner.value, ast.Name)
                and inner.value.id == "self"
            ):
                yield inner.attr


def excesses(room: Room) -> Iterator[str]:
    """What is larger than the rules allow, in a line each."""
    if len(room.files) > FILES:
        yield f"{room.name} has {len(room.files)} files, {FILES} at most are allowed"
    for file in room.files:
        where = f"{room.name}{file.name}"
        if file.lines > LINES * ABOUT:
            yield f"{where} has {file.lines} lines, about {LINES} are allowed"
        for each in file.classes:
            if each.methods > METHODS * ABOUT:
                yield f"{where}: {each.name} has {each.methods} methods, about {METHODS} are allowed"


def show(found: list[Room]) -> None:
    """Print all figures."""
    for room in found:
        print(f"{room.name}  {len(room.files)} files, {room.lines} lines: {room.says}")
        for file in room.files:
            print(f"    {file.name:26}{file.lines:4} lines")
            for each in file.classes:
                has = f"{each.methods:2} methods, {each.attributes} attributes"
                print(f"        {each.name:26}{has}")
    files = [file for room in found for file in room.files]
    classes = [each for file in files for each in file.classes]
    lines = sorted(file.lines for file in files)
    print(
        f"\n{len(found)} rooms, {len(files)} files, {sum(lines)} lines, {len(classes)} classes; "
        f"half of the files have {lines[len(lines) // 2]} lines or fewer"
    )


def main(words: list[str]) -> int:
    found = list(rooms())
    if "--check" not in words:
        show(found)
    over = [line for room in found for line in excesses(room)]
    for line in over:
        print(f"too large: {line}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
