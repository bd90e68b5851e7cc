"""`provision.py --print neon` prints all of it or, in one line, why not; it never shows half of a secret."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from baked import TEMPLATE, BakedProject
from conftest import Count
from pages import shell_blocks, type_in
from provisioning import CONFIG, DEFINITIONS, change, load

Edit = Callable[[BakedProject], object]


def printed(project: BakedProject, *words: str) -> subprocess.CompletedProcess[str]:
    return project.script("rabbitmq/provision.py", "--print", "neon", *words, check=False)


def write(name: str, content: object) -> Edit:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda project: (project / name).write_text(text)


@pytest.mark.slow  # two seconds and more, with all its parameters
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        pytest.param(lambda p: (p / CONFIG).unlink(), [CONFIG, "--print first"], id="no config"),
        pytest.param(
            lambda p: (p / DEFINITIONS).unlink(),
            [DEFINITIONS, "--print first"],
            id="no definitions",
        ),
        pytest.param(
            lambda p: [(p / name).unlink() for name in (CONFIG, DEFINITIONS)],
            [CONFIG],
            id="neither",
        ),
        pytest.param(write(CONFIG, "{"), [CONFIG, "valid JSON"], id="config cut"),
        pytest.param(write(CONFIG, {"MQ": []}), [CONFIG, "MQ"], id="MQ is a list"),
        pytest.param(write(CONFIG, {"users": []}), [CONFIG, "users"], id="users are a list"),
        pytest.param(
            write(CONFIG, {"users": {"neon_echo": 5}}), ["users.neon_echo"], id="user is 5"
        ),
        pytest.param(write(CONFIG, {"users": {}}), ["users.neon_echo"], id="no user"),
        pytest.param(
            write(CONFIG, {"users": {"neon_echo": {"username": "u", "password": 5}}}),
            ["users.neon_echo.password"],
            id="password is 5",
        ),
        pytest.param(write(DEFINITIONS, "nonsense"), [DEFINITIONS], id="definitions broken"),
        pytest.param(
            write(DEFINITIONS, {"users": {}}), [DEFINITIONS], id="definitions of odd type"
        ),
        pytest.param(
            lambda p: change(p, DEFINITIONS, lambda data: data.pop("policies")),
            [DEFINITIONS, "policies"],
            id="no policies",
        ),
        pytest.param(lambda p: (p / CONFIG).write_bytes(b"\xff"), [CONFIG, "UTF-8"], id="Latin-1"),
    ],
)
def test_what_is_missing_or_broken_is_one_line_and_nothing_is_printed(
    project: BakedProject, edit: Edit, words: list[str]
) -> None:
    edit(project)
    done = printed(project)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("provision.py: ") and all(word in line for word in words)


def test_an_odd_entry_among_the_users_is_none_of_ours(project: BakedProject) -> None:
    change(project, DEFINITIONS, lambda data: data["users"].extend([5, {"tags": []}]))
    done = printed(project)
    assert done.returncode == 0, done.stderr
    password = load(project, CONFIG)["users"]["neon_echo"]["password"]
    assert password in done.stdout and password not in done.stderr


def test_the_page_on_joining_a_neon_prints_it_all(
    project: BakedProject, record_property: Count
) -> None:
    page = (TEMPLATE / "docs" / "add-to-neon.md").read_text("utf-8")
    [block] = [each for each in shell_blocks(page) if "provision.py" in each]
    documents = type_in(block, project.path).split("---\n")[1:]
    assert len(documents) >= 3 and all(text.startswith("# ") for text in documents)
    record_property("shell blocks run", block)
