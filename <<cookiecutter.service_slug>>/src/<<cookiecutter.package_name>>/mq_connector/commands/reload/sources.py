"""The files that a running service was made from, and which of them have changed.

They are looked at, not listened to: that needs no package, and works where the system tells nobody of
changes, as on network drives and folders shared with a virtual machine.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

#: What tells two states of a file apart: its inode (some editors save by renaming), when it was written
#: (nanoseconds) and its size (bytes).
State = tuple[int, int, int]


class Sources:
    """Python modules below a folder, and some files beside.

    :param folder: what begins with a dot in it, caches and virtual environments are left out
    :param beside: they may come and go, too
    """

    def __init__(self, folder: Path, beside: Iterable[Path] = ()) -> None:
        self._folder = folder
        self._beside = [os.path.abspath(each) for each in beside]
        self._seen = self._look()

    def changed(self) -> list[str]:
        """Paths of what has changed, come or gone since the last call, sorted."""
        before, self._seen = self._seen, self._look()
        return sorted({path for path, _ in before.items() ^ self._seen.items()})

    def _look(self) -> dict[str, State]:
        found: dict[str, State] = {}
        for folder, folders, _ in os.walk(self._folder):
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".py") and not entry.name.startswith("."):
                        with suppress(OSError):  # gone meanwhile
                            found[entry.path] = _state(entry)
            folders[:] = [
                each
                for each in folders
                if not each.startswith((".", "__pycache__"))
                and not os.path.exists(os.path.join(folder, each, "pyvenv.cfg"))
            ]
        for path in self._beside:
            with suppress(OSError):
                found[path] = _state(Path(path))
        return found


def _state(file: os.DirEntry[str] | Path) -> State:
    stat = file.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def forget_compiled(paths: Iterable[str]) -> None:
    """Remove what Python has compiled of modules.

    It tells a newer source by whole seconds and size, so it would take an edit for the version before
    that has as many bytes and is of the same second.
    """
    for path in paths:
        if path.endswith(".py"):
            with suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))
