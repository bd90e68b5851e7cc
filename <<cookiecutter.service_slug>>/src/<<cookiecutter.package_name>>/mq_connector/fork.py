"""Keeps a forked child off its parent's connection: two processes on one socket garble the stream."""

from __future__ import annotations

import os
import weakref

from .errors import NotConnected

#: All there are, to be told of a fork.
_all: weakref.WeakSet[Process] = weakref.WeakSet()


class Process:
    """Remembers which process made it.

    :ivar forked: whether we are in a child of that process; asked for each message, so it is no property
    """

    __slots__ = ("__weakref__", "forked")

    def __init__(self) -> None:
        self.forked = False
        _all.add(self)

    def check(self) -> None:
        """:raises NotConnected: we are in a child of the process that made this"""
        if self.forked:
            raise NotConnected(
                "this process was forked from the one that is connected; connect after forking, "
                "or start processes with multiprocessing's method 'spawn'"
            )


def _forked() -> None:
    for each in tuple(_all):
        each.forked = True


if hasattr(os, "register_at_fork"):  # Windows has no forks.
    os.register_at_fork(after_in_child=_forked)
