"""Which files a service's reload looks at, when one counts as changed, and what it starts."""

from __future__ import annotations

import os
import py_compile
import signal
import sys
from pathlib import Path

import pytest
from mq_connector.commands.reload.sources import Sources, forget_compiled
from mq_connector.commands.reload.version import Version
from waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "src" / "package"
    source.mkdir(parents=True)
    (source / "service.py").write_text("one")
    return tmp_path / "src"


def test_nothing_has_changed_at_first(folder: Path) -> None:
    sources = Sources(folder)
    assert sources.changed() == []


def test_what_is_written_comes_or_goes_is_told_once(folder: Path) -> None:
    sources = Sources(folder)
    service, new = folder / "package" / "service.py", folder / "new.py"
    service.write_text("other")
    new.touch()
    assert sources.changed() == sorted([str(new), str(service)])
    assert sources.changed() == []
    new.unlink()
    assert sources.changed() == [str(new)]


def test_a_folder_may_go(folder: Path) -> None:
    sources = Sources(folder)
    (folder / "package" / "service.py").unlink()
    (folder / "package").rmdir()
    assert sources.changed() == [str(folder / "package" / "service.py")]


@pytest.mark.parametrize(
    "name",
    [
        "data.json",
        ".#service.py",
        "service.py~",
        ".git/hook.py",
        "__pycache__/a.py",
        "env/lib/a.py",
    ],
)
def test_what_is_no_source_of_the_service_is_left_out(folder: Path, name: str) -> None:
    (folder / "env").mkdir()
    (folder / "env" / "pyvenv.cfg").touch()
    sources = Sources(folder)
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).touch()
    assert sources.changed() == []


def test_a_file_beside_may_be_missing_and_come(folder: Path, tmp_path: Path) -> None:
    beside = tmp_path / "settings"
    sources = Sources(folder, [beside])
    beside.touch()
    assert sources.changed() == [str(beside)]
    beside.unlink()
    assert sources.changed() == [str(beside)]


def test_what_was_compiled_of_a_module_is_removed(folder: Path) -> None:
    source = folder / "package" / "service.py"
    compiled = py_compile.compile(str(source))
    assert compiled
    forget_compiled([str(source), str(folder / "no.py"), str(folder / "settings")])
    assert not os.path.exists(compiled)


def test_a_version_that_is_imported_leaves_ctrl_c_to_who_has_started_it() -> None:
    """Or it shows a traceback of wherever it was."""
    before = signal.getsignal(signal.SIGINT)
    tell = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)"
    version = Version([sys.executable, "-c", tell])
    eventually(lambda: version.exit_code is not None)
    assert version.exit_code == 0
    assert signal.getsignal(signal.SIGINT) is before
    version.kill()


def test_a_version_that_ends_before_it_hears_of_its_turn_has_ended_and_no_more() -> None:
    says_ready = (
        "import socket, sys, time\n"
        "link = socket.socket(fileno=int(sys.argv[-1]))\n"
        "link.send(b'r')\n"
        "time.sleep(600)"
    )
    version = Version([sys.executable, "-c", says_ready])
    try:

        def is_ready() -> bool:
            version.listen()
            return version.is_ready

        eventually(is_ready)
        version.go()
        version._process.kill()
        eventually(lambda: version.exit_code is not None)
        version.listen()
        assert version.fileno() < 0
    finally:
        version.kill()
