"""The READMEs' and pages' shell blocks, and a shell that runs one as it is printed."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path

from baked import outside


def shell_blocks(text: str, language: str = "sh") -> list[str]:
    """The shell blocks of a page, or those of another language, in order; in a list they are indented."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(each) for each in found]


def section(text: str, title: str) -> str:
    """A section of a page, from below its title to the next one."""
    [found] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def type_in(
    script: str, folder: Path, env: Mapping[str, str] | None = None, typed: str = ""
) -> str:
    """Run a block in a shell that stops at the first failure; returns what was printed.

    :param env: beside the environment as it is outside the tests
    :param typed: what is typed meanwhile
    """
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**outside(), "PYTHONPATH": "", "VIRTUAL_ENV": "", **(env or {})},
        input=typed,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout
