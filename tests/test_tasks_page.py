"""docs/tasks.md: each figure in its table is what is counted, here and for the others."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Collection
from dataclasses import dataclass

import pytest
from baked import TEMPLATE, TREE
from pages import section, shell_blocks
from recipes import STANDS_FOR

PAGE = (TEMPLATE / "docs" / "tasks.md").read_text(encoding="utf-8")
SERVICE = TREE / "src" / "<<cookiecutter.package_name>>" / "service.py"
#: What the service has already: its class, its constructor, and what a page leaves out.
THERE = re.compile(rf"class {STANDS_FOR}\(MQConnector\):|def __init__\(.*|\.\.\.")


@dataclass(frozen=True)
class Source:
    """Where the lines of a task stand in the generated repository."""

    page: str
    title: str
    #: Which of the title's blocks; all by default.
    blocks: tuple[int, ...] = ()
    #: What in them belongs to the task, with the imports that it uses; all by default.
    names: tuple[str, ...] = ()


SOURCES = {
    "Wait without a thread": Source("handlers.md", "Async"),
    "Reply in parts": Source("handlers.md", "In parts"),
    "Say what a request is, and answer a wrong one": Source(
        "recipes.md", "Say what a request looks like"
    ),
    "Refuse with a code": Source("recipes.md", "Refuse a request"),
    "Consume a second queue": Source("recipes.md", "Consume another queue"),
    "Hear a fanout exchange": Source("calling.md", "Hear an exchange", blocks=(0, 1)),
    "Hear a topic by patterns": Source("calling.md", "Hear an exchange", blocks=(2, 1)),
    "Ask another service, wait for its reply": Source("recipes.md", "Ask another service"),
    "Publish an event, confirmed": Source("recipes.md", "Publish an event"),
    "Do something at start and stop": Source(
        "handlers.md", "From start to end", names=("on_start", "on_stop")
    ),
    "Do something periodically": Source("handlers.md", "From start to end", names=("refresh",)),
    "Keep a resource per worker": Source(
        "handlers.md", "From start to end", names=("connection", "worker_context")
    ),
    "Try again later": Source("recipes.md", "Try again later"),
    "Test without a broker": Source("handlers.md", "Test it"),
}
#: What takes a command and no line, by what the README of the generated repository says of it.
COMMANDS = {
    "Look at dead letters, put them back": ("dead", "dead --requeue"),
    "Reload at an edit": ("run --reload",),
    "Get an AsyncAPI document": ("describe",),
}
ANSWER = "Answer a request"
PEERS = ("FastStream", "neon-mq-connector")


def rows() -> dict[str, dict[str, str]]:
    """The table: by the task, its cells by their column."""
    lines = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    return {cells[0]: dict(zip(head, cells, strict=True)) for cells in body}


ROWS = rows()


def count(code: str, without: re.Pattern[str] | None = None) -> int:
    """The lines of a piece of code, without blank ones, comments, docstrings, and what fits a pattern."""
    lines = code.splitlines()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            first = node.body[0]
            for each in range(first.lineno - 1, first.end_lineno or 0):
                lines[each] = ""
    said = [line.strip() for line in lines]
    return sum(
        bool(line) and line[0] != "#" and not (without and without.fullmatch(line)) for line in said
    )


def picked(code: str, names: Collection[str]) -> str:
    """What a piece defines by these names, and the imports that this uses."""
    nodes = ast.parse(code).body
    found = [node for node in nodes if not defined(node).isdisjoint(names)]
    assert len(found) == len(names), names
    used = {each.id for node in found for each in ast.walk(node) if isinstance(each, ast.Name)}
    imports = [
        node
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and not used.isdisjoint(alias.name for alias in node.names)
    ]
    lines = code.splitlines()
    return "\n".join(
        line for node in [*imports, *found] for line in lines[start(node) - 1 : node.end_lineno]
    )


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement of a piece defines, but for imports."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {each.id for each in targets if isinstance(each, ast.Name)}


def start(node: ast.stmt) -> int:
    """The line that a statement begins in, with its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def here(task: str) -> str:
    """The code that the column "here" counts."""
    if task == ANSWER:
        text = SERVICE.read_text(encoding="utf-8")
        [method] = re.findall(r"^    def answer.*?(?=^    def )", text, re.MULTILINE | re.DOTALL)
        return textwrap.dedent(method)
    source = SOURCES[task]
    page = (TREE / "docs" / source.page).read_text(encoding="utf-8")
    found = shell_blocks(section(page, source.title), "python")
    assert found, f"{source.page} has no block under {source.title}"
    code = "\n".join(found[each] for each in source.blocks or range(len(found)))
    return picked(code, source.names) if source.names else code


def theirs(peer: str) -> dict[str, str]:
    """The pieces for another library, by their tasks."""
    [block] = shell_blocks(section(PAGE, peer), "python")
    _, *parts = re.split(r"^# (.+?) \[.+\]\n", block, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_each_row_is_counted() -> None:
    assert list(ROWS) == [*dict.fromkeys(ROWS)] and len(ROWS) >= 18
    assert set(ROWS) == {ANSWER, *SOURCES, *COMMANDS}


@pytest.mark.parametrize("task", [ANSWER, *SOURCES])
def test_the_lines_here_are_as_many_as_the_table_says(task: str) -> None:
    row = ROWS[task]
    assert row["here"] == str(count(here(task), THERE))
    if task in SOURCES:
        assert row["counted here"] == f"{SOURCES[task].page}: {SOURCES[task].title}"


@pytest.mark.parametrize("task", COMMANDS)
def test_what_takes_no_line_takes_a_command(task: str) -> None:
    commands = COMMANDS[task]
    assert ROWS[task]["here"] == "0: " + ", ".join(f"`{each}`" for each in commands)
    readme = (TREE / "README.md").read_text(encoding="utf-8")
    for each in commands:
        assert re.search(rf"[ `]{each}\b", readme), each


@pytest.mark.parametrize("peer", PEERS)
def test_the_others_lines_are_those_below_the_table(peer: str) -> None:
    pieces = theirs(peer)
    said = {task: row[peer] for task, row in ROWS.items()}
    counted = {task: cell for task, cell in said.items() if re.match(r"[1-9]", cell)}
    assert set(counted) == set(pieces)
    for task, cell in counted.items():
        assert re.split(r"\D", cell)[0] == str(count(pieces[task])), task
    for task in said.keys() - counted.keys():
        assert re.fullmatch(r"– .{10,}|0: `.+`|not checked", said[task]), f"{task}: say why"


def test_no_line_is_longer_than_the_page_says() -> None:
    """Or the figures of one side would be smaller for it."""
    pieces = [*map(here, SOURCES), *(piece for peer in PEERS for piece in theirs(peer).values())]
    said = re.search(r"at most (\d+) characters", PAGE)
    assert said and max(len(line) for each in pieces for line in each.splitlines()) <= int(said[1])
