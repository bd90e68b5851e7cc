"""Asks again and again, and shows what was answered."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...config import metrics_port
from ...connection import input_queue
from ...consumer.outbox.dead_letters import DEAD
from ...errors import ConfigurationError, MQError, needing
from .replica import Address, Replica, resolve
from .view import Depth, View, view

if TYPE_CHECKING:
    from ...connector import MQConnector
    from ..session import Session

#: Processes that are asked at the same time.
_AT_A_TIME = 8


@dataclass(frozen=True)
class Options:
    """What is asked, and how often."""

    #: Names with ports (0 for that of ``MQ_METRICS_PORT``); empty for this machine.
    at: Sequence[tuple[str, int]] = ()
    #: Seconds between two looks.
    every: float = 2.0
    #: Whether to print one view, and end.
    once: bool = False


def watch(service: MQConnector, options: Options, session: Callable[[], Session]) -> int:
    """Show how the service does, until it is interrupted; once where nobody looks at a terminal.

    :param session: makes a connection to the service's broker, not open yet
    :returns: exit code: 0, or 1 where no process has answered and it was to be shown once
    :raises ConfigurationError: rich isn't installed, or it isn't known where to ask
    """
    with needing(
        "rich",
        "top needs rich: pip install --editable '.[top]'; an image has it when it is built with --build-arg METRICS=1, as by "
        "`docker compose up --build` with MQ_METRICS_PORT in .env",
    ):
        from .screen import Live, console, drawn
    asked = _Asked(service, _places(options), session)
    where = console()
    try:
        # On a terminal that can't move its cursor (TERM=dumb) rich would show nothing until the end.
        if options.once or not where.is_terminal or where.is_dumb_terminal:
            asked.look()
            time.sleep(min(options.every, 1.0))
            where.print(drawn(asked.look(), where.width))
            return 0 if any(each.now for each in asked.replicas) else 1
        # Or the terminal would stay as it is.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with (
            suppress(KeyboardInterrupt),
            Live(console=where, screen=True, auto_refresh=False) as live,
        ):
            while True:
                seen = asked.look()
                live.update(drawn(seen, where.width, where.height), refresh=True)
                time.sleep(options.every)
        return 0
    finally:
        asked.close()


def _places(options: Options) -> list[tuple[str, int]]:
    port = metrics_port()
    if port is None and (not options.at or any(not each for _, each in options.at)):
        raise ConfigurationError(
            "top asks the service at MQ_METRICS_PORT, which isn't set: set it for both, "
            "or say where with --at HOST:PORT"
        )
    return [(host, number or port or 0) for host, number in options.at or [("localhost", 0)]]


class _Asked:
    """Processes and broker, asked again and again."""

    def __init__(
        self,
        service: MQConnector,
        places: list[tuple[str, int]],
        session: Callable[[], Session],
    ) -> None:
        self._service = service
        self._make_session = session
        self._places = places
        self._known: dict[Address, Replica] = {}
        self._session: Session | None = None
        self._pool = ThreadPoolExecutor(_AT_A_TIME)
        self.replicas: list[Replica] = []

    def look(self) -> View:
        """Ask all."""
        found: dict[Address, Replica] = {}
        for host, port in self._places:
            try:
                addresses = resolve(host, port)
            except OSError:  # its containers are gone, say
                addresses = [Address(host, port)]
            for each in addresses:
                found[each] = self._known.get(each) or Replica(each)
        self._known = found
        self.replicas = list(found.values())
        answers = [self._pool.submit(each.ask) for each in self.replicas]
        depths, broker, trouble = self._ask_broker()
        for answer in answers:
            answer.result()
        return view(self._service.service_name, self.replicas, depths, broker, trouble)

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False)
        if self._session is not None:
            self._session.close()

    def _ask_broker(self) -> tuple[dict[str, Depth], str, str]:
        """:returns: what it says of each queue, which broker it is, and why it can't be asked"""
        queues = [
            consumer.queue
            for consumer in self._service.consumers.values()
            if not consumer.is_private
        ]
        depths = {queue: Depth() for queue in queues}
        try:
            if self._session is None:
                self._session = self._make_session()
                self._session.open()
            for queue in queues:
                depths[queue] = self._depth(self._session, queue)
            version = ".".join(map(str, self._session.link.broker.version))
        except MQError as error:
            session, self._session = self._session, None
            if session is not None:
                session.close()
            return depths, "", str(error)
        return depths, f"RabbitMQ {version}, vhost {self._service.vhost!r}", ""

    @staticmethod
    def _depth(session: Session, queue: str) -> Depth:
        found = session.run(input_queue.exists(queue))
        dead = session.run(input_queue.exists(f"{queue}{DEAD}"))
        return Depth(
            None if found is None else found.message_count,
            None if found is None else found.consumer_count,
            None if dead is None else dead.message_count,
        )
