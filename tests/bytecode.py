"""Bytecode: of the tests it is kept, for each of several processes imports them all; beside what is copied or
rendered there may be none, the connector above all."""

from __future__ import annotations

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from typing import Any


class _Unkept(SourceFileLoader):
    """Imports from source, and leaves nothing beside it."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


def keep(folder: Path, *others: Path) -> None:
    """From now on keep the bytecode of what is imported; of what lies below `folder`, only in these others.

    pytest's own of the tests, with their assertions rewritten, takes seconds of processor time to make.
    """
    hook = FileFinder.path_hook((_Unkept, SOURCE_SUFFIXES))

    def unkept(path: str) -> Any:
        where = Path(path)
        if not where.is_relative_to(folder) or any(map(where.is_relative_to, others)):
            raise ImportError(path)  # the next hook's
        return hook(path)

    sys.path_hooks.insert(0, unkept)
    sys.path_importer_cache.clear()
    sys.dont_write_bytecode = False
