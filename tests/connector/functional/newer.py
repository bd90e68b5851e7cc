"""Later generations of RabbitMQ in containers, each of which all tests share that don't harm it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pika
import pytest
from conformance import generations

from .broker import DEAD_LETTERS, PASSWORD, USER, VHOST

#: How often a message comes again from a queue called `input.….counted`.
LIMIT = 3
#: Milliseconds that these brokers wait for an acknowledgement, from a queue called `input.….timed`.
TIMEOUT = 1500


class Newer:
    """A broker in a container, with what the fixtures of this folder want of theirs."""

    def __init__(self, name: str, node: generations.Node) -> None:
        self.name = name
        self.port = node.port
        self.ctl = node.ctl

    def parameters(self, **options: Any) -> pika.ConnectionParameters:
        """How to connect."""
        credentials = pika.PlainCredentials(USER, PASSWORD)
        return pika.ConnectionParameters("127.0.0.1", self.port, VHOST, credentials, **options)


class Sharing:
    """Runs one generation at a time, until another is wanted or the block ends."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._now: Newer | None = None

    def __enter__(self) -> Sharing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, name: str) -> Newer:
        """The generation of this name."""
        if self._now is None or self._now.name != name:
            self._now = None
            self._stack.close()
            node = self._stack.enter_context(generations.running(name, [], POLICIES))
            self._now = Newer(name, node)
        return self._now


def sharing(*names: str) -> Iterator[Any]:
    """A fixture's `params`: where tests run in several processes, one has all that want a generation."""
    for name in names:
        yield pytest.param(name, marks=pytest.mark.xdist_group(f"newer-{name}"))


def policy(name: str, definition: dict[str, Any]) -> dict[str, Any]:
    """For queues called `input.….name`, whose dead letters go where those of all others go."""
    return {
        "vhost": VHOST,
        "name": name,
        "pattern": rf"^input\.[^.]+\.{name}$",
        "apply-to": "queues",
        "priority": 9,
        "definition": {"dead-letter-exchange": DEAD_LETTERS, **definition},
    }


POLICIES = [
    policy("counted", {"delivery-limit": LIMIT}),
    policy("timed", {"consumer-timeout": TIMEOUT}),
]
