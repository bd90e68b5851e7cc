"""Puts a piece of Python into a service's module, as docs/recipes.md says."""

from __future__ import annotations

import ast
import re
import textwrap

#: What the pages call the class of a service.
STANDS_FOR = "Service"
TITLE = re.compile(r"^## (.+)$", re.MULTILINE)
#: What needs rights at the broker, which provision.py takes from the source.
WITH_RIGHTS = (
    "Consume another queue",
    "Hear what others publish",
    "Hear some of it, by topic",
    "Publish an event",
    "Ask another service",
)


def recipes(page: str) -> dict[str, str]:
    """The pieces of a page by the title that they stand under."""
    _, *rest = TITLE.split(page)
    found = {}
    for title, text in zip(rest[::2], rest[1::2], strict=True):
        pieces = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert len(pieces) <= 1, f"{title} has several pieces"
        if pieces:
            found[title] = pieces[0]
    return found


def merged(module: str, piece: str) -> str:
    """The text of a module with a piece put into it."""
    tree = ast.parse(piece)
    imports, above, members = [], [], []
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports.append(_text(piece, node))
        elif isinstance(node, ast.ClassDef) and node.name == STANDS_FOR:
            members.extend(node.body)
        else:
            above.append(_text(piece, node))
    for member in members:
        module = _with_member(module, _text(piece, member), getattr(member, "name", ""))
    service = _service(module)
    lines = module.splitlines()
    first = min([service.lineno, *(each.lineno for each in service.decorator_list)])
    lines[first - 1 : first - 1] = [*above, ""]
    last = max(
        node.end_lineno or 0
        for node in ast.parse(module).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    )
    lines[last:last] = imports
    return "\n".join([*lines, ""])


def _with_member(module: str, text: str, name: str) -> str:
    service = _service(module)
    lines = module.splitlines()
    named = (each for each in service.body if name and getattr(each, "name", "") == name)
    old = next(named, None)
    if old is None:
        end = service.end_lineno or 0
        return "\n".join([*lines[:end], "", text, *lines[end:], ""])
    assert isinstance(old, ast.FunctionDef)
    body = "\n".join(lines[old.body[0].lineno - 1 : old.end_lineno])
    text = re.sub(r"^ {8}\.\.\.(?: *#.*)?$", lambda _: body, text, flags=re.MULTILINE)
    first = min([old.lineno, *(each.lineno for each in old.decorator_list)])
    return "\n".join([*lines[: first - 1], text, *lines[old.end_lineno :], ""])


def _service(module: str) -> ast.ClassDef:
    """The class of the service: the one with consumers."""
    classes = [node for node in ast.parse(module).body if isinstance(node, ast.ClassDef)]
    [found] = [each for each in classes if each.name.endswith("Service")]
    return found


def _text(piece: str, node: ast.stmt) -> str:
    above = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(each.lineno for each in above)])
    return "\n".join(piece.splitlines()[first - 1 : node.end_lineno])


def replaced(text: str, **values: str) -> str:
    """A text with other values for its constants, each of which has to be there."""
    for name, value in values.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count == 1, name
    return textwrap.dedent(text)
