"""Bytecode: of the tests it is kept, for each of several processes imports them all; beside the connector
there may be none, for it would be rendered with it."""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any


class _Unkept(SourceFileLoader):
    """Imports from source, and leaves nothing beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


def keep(but_not_in: Path) -> None:
    """From now on keep the bytecode of what is imported, unless it lies below a folder.

    pytest's own of the tests, with their assertions rewritten, takes seconds of processor time to make.
    """
    hook = FileFinder.path_hook((_Unkept, SOURCE_SUFFIXES))

    def below(path: str) -> Any:
        if not Path(path).is_relative_to(but_not_in):
            raise ImportError(path)  # the next one's
        return hook(path)

    sys.path_hooks.insert(0, below)
    sys.path_importer_cache.clear()
    sys.dont_write_bytecode = False
