"""The file that dead letters are written to before they are put back or removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .terminal import OutputError


class Export:
    """The file that letters are written to, a line each; it holds whole ones only."""

    def __init__(self, name: str, file: int) -> None:
        self._name = name
        self._file = file
        self._written = 0

    def write(self, line: str) -> None:
        """Add a line, in ASCII.

        :raises OutputError: before the letter is put back or removed: it can't be written
        """
        left = memoryview(f"{line}\n".encode("ascii"))
        whole = self._written + len(left)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._written)
            what = "the letters before this one are in it" if self._written else "it is empty"
            raise OutputError(f"can't write to {self._name!r}: {error.strerror}; {what}") from None
        self._written = whole


@contextmanager
def exported(name: str) -> Iterator[Export | None]:
    """A new file that nobody else may read, as requests hold what their senders entrust; None for no name.

    :raises OutputError: there is such a file already, or it can't be made
    """
    if not name:
        yield None
        return
    try:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise OutputError(f"can't make the file {name!r}: {error.strerror}") from None
    try:
        yield Export(name, file)
    finally:
        os.close(file)
