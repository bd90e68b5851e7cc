"""Goes the way of a request, from the configuration to the queue, and says where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import health
from ..connection.scratch import Steps
from ..connection.session import Session
from ..consumer import input_queue
from ..errors import ChannelError, MQError, NotConnected

if TYPE_CHECKING:
    from ..connector import MQConnector


class _Report:
    """Prints findings as they come."""

    def __init__(self) -> None:
        self.failed = False

    def good(self, text: str) -> None:
        print(f"ok    {text}", flush=True)

    def note(self, text: str) -> None:
        print(f"note  {text}", flush=True)

    def bad(self, text: str, remedy: str = "") -> None:
        self.failed = True
        print(f"FAIL  {text}{'; ' + remedy if remedy else ''}", flush=True)


def examine(service: MQConnector) -> int:
    """Print what is right and what is wrong.

    :returns: exit code: 0 if requests would be answered, 1 if not
    """
    report = _Report()
    try:
        settings = service.settings()
    except MQError as error:
        report.bad(str(error))
        return 1
    report.good(f"configuration: {settings.source}, user {settings.username!r}")
    session = Session(service.address())
    try:
        session.open()
    except MQError as error:
        hint = "is RabbitMQ running? `docker compose up -d rabbitmq` starts the repository's own"
        report.bad(str(error), hint if isinstance(error, NotConnected) else "")
        return 1
    try:
        version = ".".join(map(str, session.broker.version))
        hosts = ", ".join(f"{host}:{port}" for host, port in settings.hosts)
        report.good(f"broker: RabbitMQ {version} at {hosts}, logged in, vhost {service.vhost!r}")
        for consumer in service.consumers.values():
            if consumer.is_private:
                report.note(f"queue {consumer.queue!r} is the service's alone; health knows of it")
            else:
                _examine_queue(report, session, consumer.queue)
    except MQError as error:
        report.bad(str(error))
    finally:
        session.close()
    well, reason = health.check(service.service_name)
    if well:
        report.good(f"health: {reason}")
    else:
        report.note(f"health: {reason}")
    return int(report.failed)


def _examine_queue(report: _Report, session: Session, queue: str) -> None:
    try:
        found = session.run(input_queue.exists(queue))
    except ChannelError as error:
        report.bad(str(input_queue.start_error(queue, error)))
        return
    if found is None:
        report.note(f"queue {queue!r} doesn't exist yet; the service makes it when it starts")
        missing = _try(session, input_queue.may_make(queue))
        if missing:
            report.bad(f"user may not make queue {queue!r} ({missing})", "grant configure on it")
    else:
        report.good(
            f"queue: {queue!r}, {found.message_count} ready, {found.consumer_count} consumers"
        )
        if not found.consumer_count:
            report.bad(f"nobody consumes {queue!r}", "start the service")
    try:
        dead = session.run(input_queue.exists(f"{queue}.dead"))
    except ChannelError as error:
        report.note(f"queue {queue + '.dead'!r} can't be looked at ({error})")
        return
    if dead is None:
        report.bad(
            f"there is no queue {queue + '.dead'!r}: messages that fail are dropped",
            "import rabbitmq/definitions.json",
        )
    elif dead.message_count:
        report.note(f"dead letters: {dead.message_count} in {queue + '.dead'!r}")
    else:
        report.good(f"dead letters: none in {queue + '.dead'!r}")


def _try(session: Session, steps: Steps) -> MQError | None:
    try:
        session.run(steps)
    except MQError as error:
        return error
    return None
