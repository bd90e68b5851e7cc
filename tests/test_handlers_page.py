"""The page on what a handler may be: each of its blocks takes its place in the service, and works."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import pytest
from baked import BakedProject

#: By heading: what is asked, and what the replies hold, in order.
ASKED: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {
    "Async": [({"text": "hi"}, [{"echo": {"text": "hi"}}])],
    "In parts": [
        (
            {"text": "a b"},
            [
                {"text": "a", "part": 0, "is_final": False},
                {"text": "b", "part": 1, "is_final": True},
            ],
        )
    ],
    "With a type": [
        ({"city": "Bonn"}, [{"city": "Bonn", "days": 1, "unit": "C"}]),
        ({"city": "Atlantis"}, [{"code": 404, "error": "no such city: Atlantis"}]),
        (
            {"city": "Bonn", "days": "two"},
            [{"success": False, "code": 400, "error": "days must be int, it is 'two'"}],
        ),
    ],
    "From start to end": [({"text": "hi"}, [{"word": "hello", "one": 1}])],
}

TRIAL = """
import json, sys
from neon_echo.mq_connector.testing import Harness
from neon_echo.service import NeonEchoService
service = NeonEchoService(config={})
with Harness(service.handle_api_input) as harness:
    print(json.dumps([harness.send(each).replies for each in json.loads(sys.argv[1])]))
"""


def blocks(project: BakedProject) -> dict[str, str]:
    """The page's blocks by their headings."""
    page = project.read("docs/handlers.md")
    found = re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return dict(found)


def put_into(text: str, block: str) -> str:
    """A service's module with a block in it: functions in the class, the rest above it."""
    lines = block.splitlines()
    above, within = [], []
    for node in ast.parse(block).body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(each.lineno for each in decorators)])
        part = lines[first - 1 : node.end_lineno]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            within += ["", *(f"    {line}".rstrip() for line in part)]
        else:
            above += part
    whole, count = re.subn(
        r"    def answer\(.*?(?=\n    def )",
        lambda _: "\n".join(within) + "\n",
        text,
        flags=re.DOTALL,
    )
    assert count == 1
    return whole.replace("\nclass ", "\n" + "\n".join(above) + "\n\n\nclass ", 1)


def test_every_block_of_the_page_is_tried(project: BakedProject) -> None:
    page = project.read("docs/handlers.md")
    assert {*blocks(project)} == {*ASKED, "Test it"}
    assert page.count("```") == 2 * len(blocks(project))


@pytest.mark.parametrize("heading", ASKED)
def test_a_block_of_the_page_does_what_it_says(heading: str, project: BakedProject) -> None:
    service = project.package / "service.py"
    service.write_text(put_into(service.read_text("utf-8"), blocks(project)[heading]), "utf-8")
    asked = json.dumps([request for request, _ in ASKED[heading]])
    printed = project.run("python", "-B", "-c", TRIAL, asked).stdout
    for replies, (_, expected) in zip(json.loads(printed), ASKED[heading], strict=True):
        assert len(replies) == len(expected)
        for reply, part in zip(replies, expected, strict=True):
            assert reply.items() >= part.items()


def test_the_harness_is_used_as_the_page_says(project: BakedProject) -> None:
    service = project.package / "service.py"
    trial = blocks(project)["Test it"]
    service.write_text(f"{service.read_text('utf-8')}\n\n{trial}", "utf-8")
    code = (
        "from neon_echo.service import NeonEchoService, try_it\n"
        "print(try_it(NeonEchoService(config={})))"
    )
    printed = project.run("python", "-B", "-c", code).stdout
    assert printed.startswith("('ack', [{'echo': {'text': 'hi'}")
