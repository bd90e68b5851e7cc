"""Which connector a repository has: what its manifest says, and what `doctor` says of the files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from baked import CONNECTOR, TEMPLATE, BakedProject
from mq_connector.commands import inventory

VERSION = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))["_version"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A connector's folder to change, with a manifest that fits it."""
    folder = Path(shutil.copytree(CONNECTOR, tmp_path / "mq_connector"))
    (folder / inventory.MANIFEST).write_text(inventory.manifest("1.2.3", folder), "utf-8")
    return folder


def test_the_manifest_is_up_to_date() -> None:
    script = [sys.executable, "-B", str(TEMPLATE / "scripts" / "manifest.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_has_the_version_and_each_file_that_is_rendered(default_project: BakedProject) -> None:
    folder = default_project.package / "mq_connector"
    found = inventory.take(folder)
    assert found == inventory.Inventory(VERSION, (), (), ())
    _, noted = inventory._read(folder / inventory.MANIFEST)
    rendered = {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}
    assert {*noted} == rendered - {inventory.MANIFEST}


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum on this machine")
def test_sha256sum_reads_it_too(default_project: BakedProject) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", inventory.MANIFEST],
        cwd=default_project.package / "mq_connector",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_edited_added_and_missing_files_are_named(copy: Path) -> None:
    with (copy / "health.py").open("a", encoding="utf-8") as file:
        file.write("# ours\n")
    (copy / "payload" / "ours.py").write_text("")
    (copy / "errors.py").unlink()
    shutil.rmtree(copy / "compat")
    assert [*inventory.report(copy)] == [
        "connector: version 1.2.3, 4 files differ",
        "edited: health.py",
        "added: payload/ours.py",
        "missing: compat/, errors.py",
    ]


def test_what_tools_and_line_endings_do_is_no_edit(copy: Path) -> None:
    for name in ("__pycache__/x.py", ".mypy_cache/3.13/x.json", ".DS_Store", "payload/x.pyc"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("x")
    for path in inventory.files(copy).values():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert [*inventory.report(copy)] == ["connector: version 1.2.3, as it came"]


def test_many_files_are_counted_and_no_name_breaks_the_line(copy: Path) -> None:
    for number in range(25):
        (copy / f"ours{number:02}\x1b[31m\n.py").write_text("")
    title, added = inventory.report(copy)
    assert title.endswith("25 files differ")
    assert added.endswith(" and 5 more") and added.isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be read (No such file or directory)"),
        (b"", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"# mq_connector 1.2.3\nno sum\n", "is damaged"),
        (b"0" * 64 + b"  errors.py\n", "is damaged"),
    ],
)
def test_a_manifest_that_is_none_is_one_line(
    copy: Path, text: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / inventory.MANIFEST).unlink()
    if text is not None:
        (copy / inventory.MANIFEST).write_bytes(text)
    assert inventory.show(copy) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("connector: ") and said in line


def test_doctor_begins_with_the_connector(project: BakedProject) -> None:
    """Without a broker, too: who asks for help is asked for the version first."""
    doctor = ("python", "-B", "-m", "neon_echo", "doctor")
    seen = project.run(*doctor, env={"MQ_PORT": "1"}, check=False).stdout
    assert seen.startswith(f"ok    connector: version {VERSION}, as it came\n")
    (project.package / "mq_connector" / "logs.py").unlink()
    (project.package / "mq_connector" / "py.typed").write_text("edited\n")
    (project.package / "mq_connector" / "logs.py").write_text(
        (CONNECTOR / "logs.py").read_text(encoding="utf-8") + "\n", "utf-8"
    )
    seen = project.run(*doctor, env={"MQ_PORT": "1"}, check=False).stdout
    assert seen.startswith(
        f"note  connector: version {VERSION}, 2 files differ\nnote  edited: logs.py, py.typed\n"
    )


def test_make_connector_needs_neither_an_environment_nor_a_broker(project: BakedProject) -> None:
    (project.package / "mq_connector" / "ours.py").write_text("")
    python = Path(sys.base_prefix) / "bin" / "python3"
    seen = project.run("make", "connector", f"PYTHON={python}", env={"PYTHONPATH": ""}).stdout
    assert seen == f"connector: version {VERSION}, 1 file differs\nadded: ours.py\n"
    assert not project.has_file(".venv/bin/python")


def test_a_manifest_that_lags_behind_is_told_with_the_command(tmp_path: Path) -> None:
    """The check itself can fail."""
    copied = tmp_path / "template"
    bytecode = shutil.ignore_patterns("__pycache__")  # which another test may just be making
    for name in ("scripts", CONNECTOR.parents[2].name):
        shutil.copytree(TEMPLATE / name, copied / name, ignore=bytecode)
    shutil.copy(TEMPLATE / "cookiecutter.json", copied)
    script = [sys.executable, "-B", str(copied / "scripts" / "manifest.py")]
    [file] = copied.rglob("errors.py")
    file.write_text("# changed\n" + file.read_text("utf-8"), "utf-8")
    done = subprocess.run([*script, "--check"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.rstrip().endswith("make manifest")
    assert subprocess.run(script).returncode == 0
    assert subprocess.run([*script, "--check"]).returncode == 0
    assert not re.search("__pycache__", "\n".join(map(str, copied.rglob("*"))))
