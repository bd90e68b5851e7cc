"""The public connector's name, for libraries that import it: copied to ``src/neon_mq_connector/__init__.py``,
it hands on the connector in this repository, to be used without any change.

Each module is the very one that `mq_connector.compat` has: what is set in the one is set in the other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


def _compat() -> str:
    """The name of the package that is handed on: in the one beside this one that has a connector."""
    beside = Path(__file__).resolve().parent.parent
    found = sorted(beside.glob("*/mq_connector/compat/__init__.py"))
    if len(found) != 1:
        raise ImportError(
            f"{__file__} hands on mq_connector/compat of the package beside it in {beside}, "
            f"and there are {len(found)} such packages; there must be one"
        )
    return ".".join(found[0].parent.relative_to(beside).parts)


class _HandingOn(MetaPathFinder, Loader):
    """Finds a module below this name where the one below the other name is."""

    def __init__(self, name: str, compat: str) -> None:
        self._prefix = f"{name}."
        self._compat = compat

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Part of `MetaPathFinder`."""
        return ModuleSpec(fullname, self) if fullname.startswith(self._prefix) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Part of `Loader`: it is there, or is imported now.

        :raises ModuleNotFoundError: there is no such module in `mq_connector.compat`
        """
        module = import_module(f"{self._compat}.{spec.name.removeprefix(self._prefix)}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Part of `Loader`: it has been run; the import has only put its own idea of it in place."""
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


#: Where this file is copied to, its name is the one to hand on under; at its own place it does nothing.
_IS_COPY = __name__ == "neon_mq_connector"
_COMPAT = _compat() if _IS_COPY else __name__.rpartition(".")[0]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module(_COMPAT), name)


if _IS_COPY:
    # Before all others: where pip has installed the public connector, too, its modules are beside us.
    sys.meta_path.insert(0, _HandingOn(__name__, _COMPAT))
