"""Bytecode: of the tests it is kept, for each of several processes imports them all; beside what is copied or
rendered there may be none, the connector above all. A generated service that is run gets some."""

from __future__ import annotations

import py_compile
import sys
import tempfile
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from importlib.util import cache_from_source
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


#: Bytecode, by the source that it was made of.
_made: dict[bytes, bytes] = {}


def lend(package: Path) -> None:
    """Put bytecode beside the modules of a generated service, as there is where one is at home.

    Tests run it hundreds of times, each time from another folder and without leaving any: to compile it is a
    third of the processor time of a start. Python compares this with the source itself, not with its time,
    so whatever a test changes afterwards counts.

    :param package: its folder, below which there is none yet, or nothing happens
    """
    if Path(cache_from_source(str(package / "__init__.py"))).exists():
        return
    for source in package.rglob("*.py"):
        text = source.read_bytes()
        if text not in _made:
            try:
                _made[text] = _compiled(source)
            except py_compile.PyCompileError:
                continue  # a test's own fault, which the service is to find
        kept = Path(cache_from_source(str(source)))
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(_made[text])


def _compiled(source: Path) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".pyc") as file:
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        py_compile.compile(str(source), file.name, doraise=True, invalidation_mode=mode)
        return Path(file.name).read_bytes()
