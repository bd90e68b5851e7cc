"""Version, tags and changelog agree, and nothing that is generated changes without an entry."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import forks
import pytest
from baked import TEMPLATE, TREE
from test_stamp import git

SCRIPT = ["-B", "scripts/release.py"]


def release(folder: Path, *words: str) -> tuple[int, str]:
    """Run the script; returns its exit code and what it printed."""
    done = forks.run([*SCRIPT, *words], cwd=folder)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_all_agrees_here() -> None:
    code, said = release(TEMPLATE, "check")
    assert code == 0, said


@pytest.fixture
def template(released: Path, tmp_path: Path) -> Path:
    """A repository with one release, 1.0.0, and nothing after it."""
    return Path(shutil.copytree(released, tmp_path / "template"))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, made once."""
    folder = tmp_path_factory.mktemp("released")
    leavings = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in ("docs", "hooks", "scripts", TREE.name):
        shutil.copytree(TEMPLATE / name, folder / name, ignore=leavings)
    shutil.copy(TEMPLATE / "cookiecutter.json", folder)
    log = "# Changes\n\n## Unreleased\n\n- It begins.\n"
    (folder / "CHANGELOG.md").write_text(log, "utf-8")
    (folder / "docs" / "updating.md").write_text("# Updating\n\n## 1.0.0\n\nNothing.\n", "utf-8")
    code, said = release(folder, "set", "1.0.0-dev")
    assert code == 0, said
    git(folder, "init", "-q")
    assert release(folder, "set", "1.0.0") == (0, f"{written('1.0.0')}version 1.0.0; {NONE}\n")
    save(folder)
    git(folder, "tag", "v1.0.0")
    assert release(folder, "check") == (0, "version 1.0.0; released: 1.0.0\n")
    return folder


NONE = "no tag of a release here"


def written(version: str) -> str:
    return f"manifest.sha256: written, version {version}\n"


def save(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def log(folder: Path, text: str) -> None:
    """Put an entry below the first title."""
    path = folder / "CHANGELOG.md"
    path.write_text(
        re.sub(r"(## .*\n\n)", rf"\g<1>{text}\n", path.read_text("utf-8"), count=1), "utf-8"
    )


def change(folder: Path) -> None:
    with (folder / TREE.name / "README.md").open("a", encoding="utf-8") as file:
        file.write("\nMore.\n")


def test_a_release_is_in_the_changelog_with_its_day(template: Path) -> None:
    assert re.match(
        r"# Changes\n\n## 1\.0\.0 - \d{4}-\d\d-\d\d\n\n- It",
        (template / "CHANGELOG.md").read_text(),
    )


def test_a_release_is_described_by_its_section(template: Path) -> None:
    assert release(template, "notes") == (0, "- It begins.\n")


def test_what_is_out_doesn_t_change(template: Path) -> None:
    change(template)
    code, said = release(template, "check")
    assert code == 1
    assert "1.0.0 is out, but changed since: <<cookiecutter.service_slug>>/README.md" in said


def test_nothing_generated_changes_without_an_entry(template: Path) -> None:
    assert release(template, "set", "1.1.0-dev")[0] == 0
    assert release(template, "check") == (0, "version 1.1.0-dev; released: 1.0.0\n")
    change(template)
    uncommitted = release(template, "check")
    save(template)
    committed = release(template, "check")
    assert committed == uncommitted
    code, said = committed
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("CHANGELOG.md has no new entry since v1.0.0, but changed have: <<")
    log(template, "- More.")
    assert release(template, "check")[0] == 0
    save(template)
    before = git(template, "rev-parse", "HEAD")
    change(template)
    assert release(template, "check")[0] == 0  # the release has an entry
    code, said = release(
        template, "check", "--since", before
    )  # a pull request needs one of its own
    assert code == 1 and "no new entry" in said
    log(template, "- Still more.")
    assert release(template, "check", "--since", before)[0] == 0


def test_what_isn_t_generated_needs_no_entry(template: Path) -> None:
    release(template, "set", "1.1.0-dev")
    (template / "docs" / "notes.md").write_text("# Notes\n")
    assert release(template, "check")[0] == 0


def test_the_next_release_takes_the_entries(template: Path) -> None:
    release(template, "set", "1.1.0-dev")
    log(template, "- More.")
    change(template)
    assert release(template, "set", "1.1.0")[0] == 0
    save(template)
    git(template, "tag", "v1.1.0")
    assert release(template, "check") == (0, "version 1.1.0; released: 1.0.0, 1.1.0\n")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("0.9.0", "1.0.0 is released"),
        ("1.0.0-dev", "_version is 1.0.0-dev, but 1.0.0 is released"),
        ("2.0.0-dev", "docs/updating.md doesn't say what 2.0.0 asks"),
    ],
)
def test_a_version_that_doesn_t_fit_is_refused(template: Path, new: str, said: str) -> None:
    code, printed = release(template, "set", new)
    assert code == 1 and said in printed


def test_a_tag_on_another_version_is_found(template: Path) -> None:
    release(template, "set", "1.1.0-dev")
    save(template)
    git(template, "tag", "v1.1.0")
    _, said = release(template, "check")
    assert "tag v1.1.0 is on a commit whose version is 1.1.0-dev" in said
    assert "CHANGELOG.md has no section 1.1.0, which is tagged" in said


def test_a_commit_that_isn_t_there_is_named(template: Path) -> None:
    code, said = release(template, "check", "--since", "nowhere")
    assert code == 1 and "there is no commit nowhere here" in said


@pytest.mark.parametrize("text", ["1.0", "1.0.0-rc1", "", "next"])
def test_a_version_that_is_none_is_refused(text: str) -> None:
    done = forks.run([*SCRIPT, "set", text], cwd=TEMPLATE)
    assert done.returncode == 2 and "isn't like 1.2.3" in done.stderr
