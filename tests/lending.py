"""Running brokers, lent to one test after the other: each finds what a broker has that has just started.

A start is three to five seconds of processor time, to empty one and to have it read other definitions a tenth of
one. Only for those who talk to a broker by its port: who stops it, or sets what no definitions set, has his own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

import erlang
import pytest

#: In Erlang: forget all users and virtual hosts, and with these all else.
FORGET = erlang.script("""
Users = [proplists:get_value(user, Each) || Each <- rabbit_auth_backend_internal:list_users()],
[rabbit_vhost:delete(Each, <<"test">>) || Each <- rabbit_vhost:list_names()],
[ok = rabbit_auth_backend_internal:delete_user(Each, <<"test">>) || Each <- Users]""")


def taking_in(definitions: str) -> str:
    """In Erlang: read definitions, as at a start."""
    return erlang.script(f"ok = rabbit_definitions:import_raw({erlang.binary(definitions)})")


class Node(Protocol):
    """A running broker that evaluates expressions in Erlang."""

    def evaluate(self, expression: str) -> str:
        """:raises AssertionError: it can't"""


class Lending:
    """The brokers of a process that nobody has at the moment, by what they have been started with."""

    def __init__(self) -> None:
        self._idle: dict[Hashable, tuple[Node, ExitStack]] = {}

    @contextmanager
    def lend(
        self, kind: Hashable, definitions: str, start: Callable[[], AbstractContextManager[Any]]
    ) -> Iterator[Any]:
        """A broker with these definitions and no others.

        :param kind: what it has been started with beside them
        :param start: starts one with them, where none is idle
        """
        with ExitStack() as ends:
            if kind in self._idle:
                node, running = self._idle.pop(kind)
                ends.push(running)
                node.evaluate(taking_in(definitions))
            else:
                running = ends.enter_context(ExitStack())
                node = running.enter_context(start())
            yield node
            node.evaluate(FORGET)
            if kind not in self._idle:
                ends.pop_all()
                self._idle[kind] = node, running

    def close(self) -> None:
        """End those that are idle."""
        while self._idle:
            _, (_, running) = self._idle.popitem()
            with contextlib.suppress(Exception):
                running.close()


#: Of this process.
LENDING = Lending()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Nobody needs them any more."""
    LENDING.close()
