"""A Python or a cookiecutter that is too old is told so in one line, and leaves nothing half-made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from baked import TEMPLATE, BakedProject, load, outside
from test_twin import TWIN, content

#: Versions of cookiecutter that can't render the template, and what they lack of the tests' own packages.
TOO_OLD = {"1.7.3": ["poyo==0.5.0", "jinja2-time==0.2.0", "six==1.17.0"], "2.5.0": []}
#: One of each minor version that can; the newest is what all other tests use.
FIT: dict[str, list[str]] = {"2.6.0": [], "2.7.0": []}


@pytest.fixture
def python_3_9(tmp_path: Path) -> Path:
    """A Python that says it is 3.9, whether there is one on this machine or not."""
    path = tmp_path / "python3.9"
    code = "import sys; sys.version_info = (3, 9, 18, 'final', 0); exec(sys.argv[2])"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("target", ["setup", "test", "lint", "run", "broker", "connector", "up"])
def test_make_refuses_an_old_python_in_one_line(
    project: BakedProject, python_3_9: Path, target: str
) -> None:
    for name in ("mq_config.json", ".env"):
        (project / name).unlink()
    before = project.files()
    done = project.run("make", target, f"PYTHON={python_3_9}", check=False)
    said, of_make = done.stderr.splitlines()
    assert done.returncode == 2 and of_make.startswith("make: ***")
    assert said.startswith(f"{python_3_9} isn't Python 3.10 or newer: take another one")
    assert project.files() == before and not (project / ".venv").exists()


def test_the_templates_own_make_refuses_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = load("venv_script", TEMPLATE / "scripts" / "venv.py")
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    with pytest.raises(SystemExit) as raised:
        venv.main(tmp_path / ".venv", "render")
    assert raised.value.code == 2 and not (tmp_path / ".venv").exists()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "is too old, 3.10 is needed" in said


def cookiecutter(version: str, more: list[str]) -> Path:
    """A folder with this version alone, once downloaded; the rest of what it needs is the tests' own."""
    folder = TEMPLATE / ".cache" / f"cookiecutter-{version}"
    if not folder.exists():
        making = folder.with_name(f"{folder.name}.{os.getpid()}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(making),
        ]
        done = subprocess.run(
            [*command, f"cookiecutter=={version}", *more],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            shutil.rmtree(making, ignore_errors=True)
            pytest.skip(f"cookiecutter {version} can't be had here: {done.stderr.strip()[-200:]}")
        try:
            making.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(making)
    return folder


def rendered(
    version: str, more: list[str], template: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """What somebody gets who has this version."""
    folder.mkdir()
    home = str(folder.parent)  # where its copies of the hooks stay, too
    env = {
        **outside(),
        "HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": str(cookiecutter(version, more)),
    }
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(folder), str(template)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    seen = subprocess.run(
        [*command[:3], "--version"], env=env, capture_output=True, text=True, timeout=60
    )
    # Not by what it says: 2.7.0 calls itself 2.6.0.
    assert f" from {cookiecutter(version, more)} " in seen.stdout
    return done


@pytest.fixture(params=["template", "twin"])
def template(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The template, and its twin for Windows."""
    if request.param == "template":
        return TEMPLATE
    made: Path = TWIN.build(tmp_path, str(TEMPLATE))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("version", TOO_OLD)
def test_a_cookiecutter_that_is_too_old_says_so_and_leaves_nothing(
    tmp_path: Path, template: Path, version: str
) -> None:
    done = rendered(version, TOO_OLD[version], template, tmp_path / "out")
    assert done.returncode
    said = "cookiecutter is too old, 2.6 is needed: pip install --upgrade 'cookiecutter>=2.6'"
    assert done.stderr.splitlines()[0] == said and "Traceback" not in done.stderr
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("version", FIT)
def test_every_cookiecutter_from_2_6_on_makes_the_same(
    tmp_path: Path, template: Path, default_project: BakedProject, version: str
) -> None:
    done = rendered(version, FIT[version], template, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = BakedProject(tmp_path / "out" / "neon-echo", {})
    assert content(made) == content(default_project)
