"""Keeps a forked child off its parent's connection: two processes on one socket garble the stream."""

from __future__ import annotations

import os

from .errors import NotConnected


class Process:
    """Remembers which process made it."""

    #: Number of the process that we are in; costs no system call to look at.
    current = os.getpid()

    def __init__(self) -> None:
        self._made_in = Process.current

    @property
    def forked(self) -> bool:
        """Whether we are in a child of the process that made this."""
        return self._made_in != Process.current

    def check(self) -> None:
        """:raises NotConnected: we are in a child of the process that made this"""
        if self.forked:
            raise NotConnected(
                "this process was forked from the one that is connected; connect after forking, "
                "or start processes with multiprocessing's method 'spawn'"
            )


def _forked() -> None:
    Process.current = os.getpid()


if hasattr(os, "register_at_fork"):  # Windows has no forks.
    os.register_at_fork(after_in_child=_forked)
