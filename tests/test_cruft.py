"""Keeping a generated repository up to date: the READMEs' commands, over what its owner has edited.

They start from every released version, which is a tag `v1.2.3`. Where there is none, because there was
no release yet or because tags didn't come along, the last commit stands in for one, and the tests'
names say so.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from baked import CONNECTOR, SECRETS, TEMPLATE, BakedProject, copy_template, outside, settings
from conftest import Count
from pages import section, shell_blocks
from test_stamp import git

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TREE = "<<cookiecutter.service_slug>>"
PACKAGE = f"{TREE}/src/<<cookiecutter.package_name>>"
ADDRESS = "https://github.com/org/neon-mq-template"
#: What stands in for a release where there is none.
NO_TAG = "no tag here: the last commit"
Run = Callable[..., subprocess.CompletedProcess[str]]


def released() -> list[str]:
    """Tags of releases in this repository, the oldest first."""
    command = ["git", "-C", str(TEMPLATE), "tag", "--list", "v*", "--sort=version:refname"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return [tag for tag in found if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's repository, with its releases, and beyond them a version that isn't out yet."""
    folder = tmp_path_factory.mktemp("history") / "neon-mq-template"
    clone = ["git", "clone", "-q", "--no-hardlinks", str(TEMPLATE), str(folder)]
    own = (TEMPLATE / ".git").exists() and subprocess.run(clone).returncode == 0
    if not own:  # an archive
        copy_template(folder)
        git(folder, "init", "-q")
        commit(folder, "The first one")
    if not released():
        git(folder, "tag", "v0.0.0")
    # What is being worked on, and a change in each kind of file.
    for name in git(folder, "ls-files").splitlines() if own else []:
        (folder / name).unlink()
    shutil.copytree(copy_template(folder.parent / "copy"), folder, dirs_exist_ok=True)
    for name in (f"{TREE}/README.md", f"{TREE}/compose.yaml", f"{TREE}/tests/test_handler.py"):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("\n# From a later template.\n")
    health = folder / PACKAGE / CONNECTOR.name / "health.py"
    health.write_text(
        health.read_text("utf-8") + "\n#: From a later template.\nLATER = 1\n", "utf-8"
    )
    service = folder / PACKAGE / "service.py"
    first_line, rest = service.read_text("utf-8").split("\n", 1)
    service.write_text(f"{first_line}\n\n# From a later template.\n{rest.lstrip()}", "utf-8")
    subprocess.run([sys.executable, "-B", "scripts/manifest.py"], cwd=folder, check=True)
    commit(folder, "A later one")
    return folder


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a block of a README in a shell, in somebody's home."""
    settings(tmp_path / "settings")
    who = {
        f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    env = {
        **outside(), **who, "HOME": str(tmp_path), "PYTHONPATH": "",
        "TMPDIR": str(tmp_path / "settings"),  # cookiecutter leaves its copies of the hooks there
        "COOKIECUTTER_CONFIG": str(tmp_path / "settings" / "cookiecutter.yaml"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip

    def in_shell(script: str, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-euc", script], cwd=folder, env=env, input=20 * "\n",
            capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        assert not (check and done.returncode), f"{script}\n{done.stdout}\n{done.stderr}"
        return done

    return in_shell


def how_to(step: str) -> str:
    """A block of the READMEs: of how to start with cruft, to link a repository, or to update it."""
    template = (TEMPLATE / "README.md").read_text("utf-8")
    generated = (TEMPLATE / TREE / "README.md").read_text("utf-8")
    [create] = shell_blocks(section(template, "Keep up with the template"))
    link, update = shell_blocks(section(generated, "Keep it up to date"))
    # Without what brings packages from the index: other tests run it.
    update = update.replace("make lint test\n", "")
    return {"create": create, "link": link, "update": update}[step]


def created(run: Run, history: Path, folder: Path, tag: str) -> Path:
    """A repository that cruft has made of a release, in git."""
    words = how_to("create").replace(ADDRESS, f"--checkout {tag} {history.as_uri()}")
    seen = run(words, folder)
    assert not seen.stderr and "made" not in seen.stdout and "Next" not in seen.stdout
    return in_git(folder / "neon-echo")


def linked(run: Run, history: Path, folder: Path, tag: str) -> Path:
    """A repository that cookiecutter has made of a release, linked later on."""
    config = f"--config-file {folder}/settings/cookiecutter.yaml"
    run(f"cookiecutter --no-input {config} --checkout {tag} git+{history.as_uri()}", folder)
    project = in_git(folder / "neon-echo")
    run(how_to("link"), project)
    assert not (project / ".template.json").exists()
    return project


def in_git(project: Path) -> Path:
    git(project, "init", "-q")
    commit(project, "Generated")
    return project


def edit(project: Path) -> None:
    """What an owner does: another answer, its test, and more memory in the compose file."""
    for name, old, new in (
        ("src/neon_echo/service.py", '{"echo": request}', '{"shout": request["text"].upper()}'),
        ("tests/test_handler.py", '{"echo": {"text": "hi"}, ', '{"shout": "HI", '),
        ("compose.yaml", "mem_limit: 256m", "mem_limit: 512m"),
    ):
        before = (project / name).read_text("utf-8")
        assert before.count(old) == 1, f"{name} has {before.count(old)} of {old}"
        (project / name).write_text(before.replace(old, new), "utf-8")
    commit(project, "Mine")


def secrets(project: Path) -> dict[str, bytes]:
    return {name: (project / name).read_bytes() for name in SECRETS}


#: In the names of the tests; without a tag, what stands in for one.
RELEASES = [pytest.param(tag, id=tag) for tag in released()] or [pytest.param("v0.0.0", id=NO_TAG)]
LATEST = (released() or ["v0.0.0"])[-1]


@pytest.mark.parametrize("start", [created, linked])
@pytest.mark.parametrize("tag", RELEASES)
def test_an_update_keeps_edits_and_credentials(
    tmp_path: Path,
    run: Run,
    history: Path,
    tag: str,
    start: Callable[..., Path],
    record_property: Count,
) -> None:
    for step in ("create" if start is created else "link", "update"):
        record_property("shell blocks run", how_to(step))
    if released():
        record_property("tags updated from", tag)
    project = start(run, history, tmp_path, tag)
    before = secrets(project)
    edit(project)
    mine = git(project, "rev-parse", "HEAD")
    note = json.loads((project / ".cruft.json").read_text("utf-8"))
    assert note["commit"] == git(history, "rev-parse", f"{tag}^{{commit}}")
    assert "password" not in json.dumps(note)

    seen = run(how_to("update"), project)
    assert "made" not in seen.stdout.split("diff --git")[0]
    assert secrets(project) == before
    assert git(project, "status", "--porcelain") == ""
    changed = git(project, "diff", "--name-only", mine, "HEAD").splitlines()
    assert not [name for name in changed if name.endswith(".rej")]
    for name, own in (
        ("src/neon_echo/service.py", '{"shout": request["text"].upper()}'),
        ("tests/test_handler.py", '{"shout": "HI", '),
        ("compose.yaml", "mem_limit: 512m"),
    ):
        text = (project / name).read_text("utf-8")
        assert own in text and "# From a later template." in text and "<<<<" not in text, name
    note = json.loads((project / ".cruft.json").read_text("utf-8"))
    assert note["commit"] == git(history, "rev-parse", "HEAD")
    assert note["context"]["cookiecutter"]["_version"] == version(history)
    assert run("make connector", project).stdout == (
        f"connector: version {version(history)}, as it came\n"
    )
    updated = BakedProject(project, note["context"]["cookiecutter"])
    words = ["-m", "not broker", "-p", "no:cacheprovider", "--quiet"]
    assert re.search(
        r"^\d+ passed", updated.run("python", "-B", "-m", "pytest", *words).stdout, re.M
    )
    assert run("cruft check", project).returncode == 0


@functools.cache
def version(history: Path) -> str:
    return str(json.loads((history / "cookiecutter.json").read_text("utf-8"))["_version"])


def test_lines_that_both_have_changed_are_left_to_the_owner(
    tmp_path: Path, run: Run, history: Path
) -> None:
    """Between conflict markers, as the README says; everything else arrives."""
    project = created(run, history, tmp_path, LATEST)
    readme = project / "README.md"
    readme.write_text(readme.read_text("utf-8") + "\nMine.\n", "utf-8")
    commit(project, "Mine")
    seen = run("cruft update --skip-apply-ask", project)
    assert "README.md" in seen.stderr
    text = readme.read_text("utf-8")
    assert "\nMine.\n" in text and "From a later template." in text and "<<<<<<< " in text
    assert "From a later template." in (project / "compose.yaml").read_text("utf-8")


def test_what_doesn_t_fit_an_unknown_text_becomes_a_rej_file(
    tmp_path: Path, run: Run, history: Path
) -> None:
    """The generated text was never committed: git has nothing to compare with."""
    words = how_to("create").replace(ADDRESS, f"--checkout {LATEST} {history.as_uri()}")
    run(words, tmp_path)
    project = tmp_path / "neon-echo"
    readme = project / "README.md"
    lines = readme.read_text("utf-8").splitlines()
    readme.write_text("\n".join([*lines[:-5], "Mine.", ""]), "utf-8")
    before = secrets(in_git(project))
    run("cruft update --skip-apply-ask", project)
    assert "From a later template." in (project / "README.md.rej").read_text("utf-8")
    assert "From a later template." in (project / "compose.yaml").read_text("utf-8")
    assert readme.read_text("utf-8").endswith("Mine.\n")
    assert secrets(project) == before


@pytest.mark.parametrize("trouble", ["dirty", "gone", "no such tag"])
def test_an_update_that_can_t_be_changes_nothing(
    tmp_path: Path, run: Run, history: Path, trouble: str
) -> None:
    project = created(run, history, tmp_path, LATEST)
    words = "cruft update --skip-apply-ask"
    if trouble == "dirty":
        (project / "README.md").write_text("Mine.\n", "utf-8")
    elif trouble == "gone":
        note = (project / ".cruft.json").read_text("utf-8")
        (project / ".cruft.json").write_text(note.replace(str(history), f"{history}-gone"), "utf-8")
        commit(project, "Moved")
    else:
        words += " --checkout v99.0.0"
    before = state(project)
    done = run(words, project, check=False)
    assert done.returncode != 0
    # How cruft came to it may stand above.
    said = " ".join(
        (done.stdout + done.stderr).rpartition("InvalidCookiecutterRepository:")[2].split()
    )
    expected = {
        "dirty": "Cruft cannot apply updates on an unclean git project.",
        "gone": "Failed to clone the repo.",
        "no such tag": "Failed to check out the reference v99.0.0.",
    }
    assert expected[trouble] in said, said
    assert state(project) == before


def state(project: Path) -> dict[str, bytes]:
    """All files, but for git's own."""
    found = (path for path in project.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    ("note", "said"),
    [
        (None, "No such file or directory"),
        ("[]", "can't read .template.json"),
        ('{"template": "x", "commit": null, "answers": {}}', "made from no commit"),
        ('{"template": "x", "commit": "0f-dirty", "answers": {}}', "made from no commit"),
        ('{"template": "/nowhere/x", "commit": "0f", "answers": {}}', "could not link to"),
    ],
)
def test_a_copy_that_can_t_be_linked_is_told_why(
    tmp_path: Path, run: Run, project: BakedProject, note: str | None, said: str
) -> None:
    (project / ".template.json").unlink()
    if note is not None:
        (project / ".template.json").write_text(note)
    done = run("make link", project.path, check=False)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr
    assert not project.has_file(".cruft.json")
    assert project.has_file(".template.json") == (note is not None)


def test_a_copy_that_is_linked_already_is_told_so(run: Run, project: BakedProject) -> None:
    (project / ".template.json").unlink()
    (project / ".cruft.json").write_text("{}")
    done = run("make link", project.path, check=False)
    assert done.returncode != 0 and "linked already" in done.stderr
    assert (project / ".cruft.json").read_text() == "{}"
