"""Temporary files lie in memory only where that does no harm."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import memory
import pytest

PLENTY = "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n"
LITTLE = "MemTotal: 33554432 kB\nMemAvailable: 1048576 kB\n"


def test_where_there_is_no_such_place_or_nobody_knows_there_is_none(tmp_path: Path) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text(PLENTY)
    assert not memory.has_room(tmp_path / "absent", facts)
    assert not memory.has_room(tmp_path, tmp_path / "absent")
    facts.write_text("MemTotal: 33554432 kB\n")
    assert not memory.has_room(tmp_path, facts)


def test_both_the_place_and_the_memory_need_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text(PLENTY)
    space = os.statvfs(tmp_path)
    free = space.f_bavail * space.f_frsize
    assert memory.has_room(tmp_path, facts) is (free >= memory.ROOM)
    monkeypatch.setattr(memory, "ROOM", 2 * 1024**3)
    facts.write_text(LITTLE)
    assert not memory.has_room(tmp_path, facts)
    monkeypatch.setattr(memory, "ROOM", free + 1)
    facts.write_text(PLENTY)
    assert not memory.has_room(tmp_path, facts)


@pytest.mark.parametrize("has_room", [True, False])
def test_who_says_where_has_them_there(monkeypatch: pytest.MonkeyPatch, has_room: bool) -> None:
    monkeypatch.setattr(memory, "has_room", lambda: has_room)
    monkeypatch.setattr(tempfile, "tempdir", "as it was")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    memory.use()
    assert (os.environ["TMPDIR"], tempfile.tempdir) == ("/elsewhere", "as it was")
    monkeypatch.delenv("TMPDIR")
    memory.use()
    assert tempfile.tempdir == ("/dev/shm" if has_room else "as it was")
    assert os.environ.get("TMPDIR") == ("/dev/shm" if has_room else None)
