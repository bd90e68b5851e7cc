"""Counts for all consumers of a service, and serves what was counted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..connection.supervised import is_responsive
from ..errors import needing
from ..health import ANSWER_WITHIN, CONSUMING, answer
from .counts import Counts
from .endpoint import Endpoint, Reply

if TYPE_CHECKING:
    from ..consumer import ConsumerThread
    from .collector import Exposition

#: What ends the name of a queue that each process draws anew: as a label it would never come again.
_DRAWN = re.compile(r"[0-9a-f]{6,}$")
_PLAIN, _JSON = "text/plain; charset=utf-8", "application/json"


def exposition() -> type[Exposition]:
    """What writes down what was counted.

    :raises ConfigurationError: prometheus-client isn't installed
    """
    with needing(
        "prometheus_client",
        "MQ_METRICS_PORT is set, but prometheus-client isn't installed: "
        "pip install --editable '.[metrics]'; an image has it when it is built with --build-arg METRICS=1, as by "
        "`docker compose up --build` with MQ_METRICS_PORT in .env",
    ):
        from .collector import Exposition
    return Exposition


class Metrics:
    """Watches consumers, which haven't started yet, and answers at a port.

    :param consumers: those of the service, by name; others may come
    :param look: starts to find out whether the broker has our consumers, see `mq_connector.health.answer`
    :param port: of all addresses of this machine
    :raises ConfigurationError: the port is taken, or prometheus-client isn't installed
    """

    def __init__(
        self,
        consumers: Mapping[str, ConsumerThread],
        look: Callable[[Callable[[str], None]], None],
        port: int,
    ) -> None:
        self._look = look
        #: With the consumer that it counts for, as another one may take its name.
        self._counts: list[tuple[ConsumerThread, Counts]] = []
        self._exposition = exposition()(self.by_queue)
        for consumer in consumers.values():
            consumer.observer = counts = Counts()
            self._counts.append((consumer, counts))
        self._endpoint = Endpoint(
            port,
            {
                "/metrics": self._exposition.metrics,
                "/healthz": lambda _: self._health(),
                "/readyz": lambda _: self._readiness(),
            },
            {"/errors": self._errors},
        )

    def close(self) -> None:
        """Answer no more."""
        self._endpoint.close()

    def by_queue(self) -> dict[str, list[tuple[ConsumerThread, Counts]]]:
        """Who is counted for, by the queue's name as a label has it."""
        found: dict[str, list[tuple[ConsumerThread, Counts]]] = {}
        for consumer, counts in self._counts:
            name = _DRAWN.sub("", consumer.queue) if consumer.is_private else consumer.queue
            found.setdefault(name, []).append((consumer, counts))
        return found

    def why_dead(self) -> str:
        """Why the process ought to be started anew, whatever the broker does; empty if all is well."""
        for consumer, counts in self._counts:
            if consumer.ident is None or consumer.is_stopping:
                continue  # it has yet to start, or comes to its end
            if not consumer.is_alive():
                return f"the consumer of {consumer.queue!r} has ended"
            if counts.workers is not None and counts.workers.why_unhealthy:
                return f"{consumer.queue!r}: {counts.workers.why_unhealthy}"
        for connection in {consumer.connection for consumer, _ in self._counts}:
            if not is_responsive(connection, ANSWER_WITHIN):
                return f"the thread of a connection hasn't answered within {ANSWER_WITHIN} s"
        return ""

    def _health(self) -> Reply:
        reason = self.why_dead()
        return Reply(503 if reason else 200, _PLAIN, f"{reason or 'alive'}\n".encode())

    def _readiness(self) -> Reply:
        said = answer(self._look)
        return Reply(200 if said == CONSUMING else 503, _PLAIN, f"{said}\n".encode())

    def _errors(self, _: str) -> Reply:
        errors = [
            {"queue": queue, **error}
            for queue, consumers in self.by_queue().items()
            for _, counts in consumers
            for error in list(counts.errors)
        ]
        errors.sort(key=lambda error: str(error["time"]))
        return Reply(200, _JSON, json.dumps(errors).encode())
