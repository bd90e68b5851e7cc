"""Answers to what a handler asks, without a broker; for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import payload
from ..errors import Unroutable
from .caller import Caller
from .message import Publication, question, time_for

#: A reply, what makes one of the request, or what is raised in place of one.
Answer = Mapping[Any, Any] | Callable[[dict[Any, Any]], Mapping[Any, Any]] | Exception


@dataclass(frozen=True)
class Question:
    """What a handler has asked."""

    queue: str
    #: As the other service would have decoded it.
    request: dict[Any, Any]
    vhost: str | None = None


class CannedCaller(Caller):
    """Takes the place of a service's own caller.

    :param service: of whom it is the caller
    :param answers: by the queue that is asked; another one isn't there
    :param on_question: told of each question
    :param on_publish: told of each message that is published
    """

    def __init__(
        self,
        service: Any,
        answers: Mapping[str, Answer],
        on_question: Callable[[Question], object],
        on_publish: Callable[[Publication], object],
    ) -> None:
        super().__init__(service)
        self._answers = answers
        self._on_question = on_question
        self._on_publish = on_publish

    def ask(
        self, queue: str, request: Mapping[Any, Any], vhost: str | None, timeout: float | None
    ) -> dict[Any, Any]:
        """What the answers say; `timeout` in seconds has no effect."""
        self._check_wait("ask")
        return self._answer(queue, request, vhost, timeout)

    async def ask_async(
        self, queue: str, request: Mapping[Any, Any], vhost: str | None, timeout: float | None
    ) -> dict[Any, Any]:
        """As `ask`, on an event loop."""
        return self._answer(queue, request, vhost, timeout)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Mapping[Any, Any] | bytes,
        timeout: float,
    ) -> None:
        """Write it down; `timeout` in seconds has no effect."""
        self._check_wait("publish")
        self._on_publish(Publication.of(exchange, routing_key, message))

    async def publish_async(
        self,
        exchange: str,
        routing_key: str,
        message: Mapping[Any, Any] | bytes,
        timeout: float,
    ) -> None:
        """The same on an event loop."""
        self._on_publish(Publication.of(exchange, routing_key, message))

    def _answer(
        self, queue: str, request: Mapping[Any, Any], vhost: str | None, timeout: float | None
    ) -> dict[Any, Any]:
        time_for(queue, timeout)
        asked = Question(queue, payload.decode(payload.encode(dict(question(request)))), vhost)
        self._on_question(asked)
        if queue not in self._answers:
            raise Unroutable(f"there is no queue {queue!r}: the harness has no answer for it")
        answer = self._answers[queue]
        if isinstance(answer, Exception):
            raise answer
        reply = answer if isinstance(answer, Mapping) else answer(asked.request)
        return payload.decode(payload.encode(dict(reply)))
