"""Job 8: the template itself, rendered, and its container image, built."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..contenders import OURS
from ..environment import TEMPLATE
from ..job import Job, Metric, Values
from ..lab import Lab

#: Generators that come with their templates from the package index and work without a network.
COMMANDS = {
    OURS: ("cookiecutter", "--no-input", "--config-file", "settings.yaml", str(TEMPLATE)),
    "cookiecutter-pypackage": ("cookiecutter-pypackage", "--no-input", "--output-dir", "."),
    "cookiecutter-python": ("generate-python", "--offline", "--no-input"),
    "pyscaffold": ("putup", "demo"),
}
LABELS = {
    OURS: "**this template**",
    "cookiecutter-pypackage": "cookiecutter-pypackage",
    "cookiecutter-python": "cookiecutter-python, which also makes a git commit",
    "pyscaffold": "PyScaffold, which has an engine of its own and also makes a git commit",
}
#: Name of the image while it is measured.
IMAGE = "neon-mq-template-bench"


class Template(Job):
    number = 8
    slug = "template"
    title = "Rendering the template, building the image"
    text = (
        "Rendering: seconds from typing the command to its end, with defaults and without questions, "
        "credentials included; and how many files that makes. Image: `docker build --no-cache` with its "
        "base at hand (pulled before, where it was missing), and what it adds to that. Most public templates are fetched from GitHub when they "
        "are used; these are the ones that the package index has whole."
    )
    metrics = (
        Metric("seconds", "s", 2, "lower", plot=True),
        Metric("cpu_s", "s of CPU", 2, "lower"),
        Metric("files", "files", 0),
        Metric("size_mb", "MB over its base", 1),
    )
    reference = None

    def cases(self, quick: bool) -> Sequence[str]:
        return ("rendering",) if quick else ("rendering", "image")

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS,) if quick or case == "image" else tuple(COMMANDS)

    def rounds(self, case: str, quick: bool) -> int:
        return 3

    def label(self, row: str) -> str:
        return LABELS[row]

    def peer(self, row: str) -> str | None:
        return None if row == OURS else "templates"

    def reason(self, case: str, first: str) -> str:
        if first != "pyscaffold":
            return ""
        return (
            "cookiecutter loads an HTTP client and a terminal library before it does anything, and "
            "runs each hook in a Python of its own; PyScaffold does neither, and makes no credentials."
        )

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        return build(lab) if case == "image" else render(lab, row)


def render(lab: Lab, row: str) -> dict[str, float]:
    """Render into an empty folder, with settings of its own."""
    program, *arguments = COMMANDS[row]
    # Ours needs nothing but cookiecutter, which is where the harness runs.
    python = Path(sys.executable) if row == OURS else lab.environment("templates").program
    command = [str(python.with_name(program)), *arguments]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "settings.yaml").write_text(f"replay_dir: {name}/replay\n", encoding="utf-8")
        work = folder / "work"
        work.mkdir()
        shutil.copy(folder / "settings.yaml", work)
        git = {"GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@example.com"}
        git |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in git.items()}
        env = {**os.environ, **git, "HOME": str(folder)}
        before, began = _cpu(), time.monotonic()
        done = subprocess.run(
            command, cwd=work, env=env, capture_output=True, text=True, timeout=60
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(
                f"exit code {done.returncode}: {(done.stderr or done.stdout)[-200:]}"
            )
        made = [file for file in work.rglob("*") if file.is_file() and ".git" not in file.parts]
        return {"seconds": seconds, "cpu_s": _cpu() - before, "files": len(made) - 1}


def build(lab: Lab) -> dict[str, float]:
    """Build the generated project's image with the engine that is there."""
    project = lab.service.project
    base = next(
        line.partition('"')[2].rstrip('"')
        for line in (project / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("ARG PYTHON_VERSION=")
    )
    base = f"python:{base}-slim"
    size = _base_size(base)
    began = time.monotonic()
    try:
        _docker("build", "--no-cache", "--tag", IMAGE, str(project))
        seconds = time.monotonic() - began
        return {"seconds": seconds, "size_mb": (_size(IMAGE) - size) / 2**20}
    finally:
        subprocess.run(["docker", "image", "rm", "--force", IMAGE], capture_output=True, timeout=60)


def _cpu() -> float:
    """Seconds of processor time of all children that have ended, and of their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(image: str) -> int:
    return int(_docker("image", "inspect", "--format", "{{.Size}}", image))


def _base_size(image: str) -> int:
    """A base's size; it is pulled where it is missing, which is no part of a build's time."""
    try:
        return _size(image)
    except RuntimeError:
        _docker("pull", "--quiet", image)
        return _size(image)


def _docker(*words: str) -> str:
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise RuntimeError("there is no Docker on this machine") from None
    if done.returncode:
        raise RuntimeError(f"docker {words[0]}: {done.stderr.strip()[-200:]}")
    return done.stdout
