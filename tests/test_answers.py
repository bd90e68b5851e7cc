"""Whatever was typed is data: it breaks no file's syntax, no shell, and nothing renders it again."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from baked import BakedProject, bake_into, parse

HOSTILE = [
    pytest.param("say \"hi\" and 'bye'", id="quotes"),
    pytest.param('ends in three """', id="docstring-end"),
    pytest.param("'''", id="other-docstring-end"),
    pytest.param("ends in a backslash \\", id="backslash"),
    pytest.param('\\" \\n \\u0041 \\', id="escapes"),
    pytest.param("one line\nand another\r\n\tand a third", id="lines"),
    pytest.param("\U0001f680 \U0001f469\u200d\U0001f52c \u2603 \xfcn\xef", id="emoji"),
    pytest.param("$(touch pwned) `touch pwned` ${HOME} $$ $HOME", id="shell"),
    pytest.param("'; touch pwned; '", id="shell-quote"),
    pytest.param("<< cookiecutter.author_name >> <% if 1 %> <# x #>", id="own-syntax"),
    pytest.param("{{ cookiecutter.author_name }} {% if 1 %} {# x #}", id="usual-syntax"),
    pytest.param("#% if 1", id="line-statement"),
    pytest.param("- key: [value, {a: b}] # & * ! | > % @ ---", id="yaml"),
    pytest.param("%s %(name)s {} {0} %", id="formats"),
    pytest.param("<script>alert(1)</script> | a | b |\n# Title", id="markup"),
    pytest.param("x" * 2000, id="long"),
]


def one_line(text: str) -> str:
    """What is kept of free text: every character but the kind of white space between words."""
    return " ".join(text.split())


@pytest.mark.slow  # renders for each
@pytest.mark.parametrize("text", HOSTILE)
def test_free_text_arrives_whole_and_breaks_nothing(tmp_path: Path, text: str) -> None:
    answers = dict.fromkeys(["description", "author_name", "author_email"], text)
    answers |= {"service_name": f"Weather {text}", "service_slug": "weather"}
    project = bake_into(tmp_path, answers, typed=True)
    metadata = project.metadata()["project"]
    assert metadata["description"] == one_line(text)
    assert metadata["authors"] == [{"name": one_line(text), "email": one_line(text)}]
    assert f"Copyright (c) {one_line(text)}" in project.read("LICENSE")
    assert ast.get_docstring(
        parse(".py", (project.package / "__init__.py").read_text("utf-8")), clean=False
    ) == one_line(text)
    for name in project.files():
        parse(name, project.read(name))
    assert labels(project)["org.opencontainers.image.title"] == one_line(f"Weather {text}")
    assert labels(project)["org.opencontainers.image.description"] == one_line(text)
    assert labels(project)["org.opencontainers.image.authors"] == one_line(text)
    for target in ("help", "setup", "request", "up", "test"):
        project.run("make", "--dry-run", target)
    project.run("make")
    assert not [*tmp_path.rglob("pwned")]


def labels(project: BakedProject) -> dict[str, str]:
    """The image's labels, read by the rules of a Dockerfile: a backslash takes the next character
    as it is, and a dollar without one would be a variable."""
    text = re.search(r"^LABEL (.*?[^\\])$", project.read("Dockerfile"), re.MULTILINE | re.DOTALL)
    assert text
    found = re.findall(r'([\w.]+)="((?:[^"\\$]|\\.)*)"(?: \\\n +|$)', text[1])
    assert len(found) == text[1].count("\n") + 1, text[1]
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in found}


@pytest.mark.slow  # renders for each
@pytest.mark.parametrize(
    ("vhost", "queue"),
    [
        ("/", "q"),
        ("/weather/eu:1", "weather.input-eu_1"),
        ("/a.b+c(d)[e]*?^|", "a.b+c(d)[e]*?^|"),
        ("/wetter-für-\U0001f326", "eingang-ü-\U0001f326"),
        ("/" + "v" * 254, "q" * 216),
        ("/#%&=;,!@~", "#%&=;,!@~"),
    ],
)
def test_vhost_and_queue_reach_the_service_as_typed(tmp_path: Path, vhost: str, queue: str) -> None:
    project = bake_into(tmp_path, {"vhost": vhost, "input_queue": queue}, typed=True)
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in parse(".py", (project.package / "service.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert (constants["VHOST"], constants["INPUT_QUEUE"]) == (vhost, queue)
    definitions = parse(".json", project.read("rabbitmq/definitions.json"))
    assert {each["name"] for each in definitions["vhosts"]} == {vhost}
    for name in project.files():
        parse(name, project.read(name))
