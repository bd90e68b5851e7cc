"""Checks all that a request needs, from the configuration to the queue, and says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import health
from ..config import check_ranges, environment, metrics_port, mistaken, tracing
from ..connection import input_queue
from ..connection.scratch import Steps
from ..errors import ChannelError, MQError, NotConnected, printable, provisioned
from ..logs import form_of, level_of
from . import inventory
from .broker import SHORTLY, alarm, family, session
from .session import Session
from .terminal import say

if TYPE_CHECKING:
    from ..config import Settings
    from ..connector import MQConnector
    from ..consumer import ConsumerThread

#: A kind that no queue is of, so that a declaration with it never makes one.
_NO_KIND = {"x-queue-type": "none"}
#: How RabbitMQ names the kind of a queue in refusing that declaration; "none" is a classic one on
#: RabbitMQ 3.
_CURRENT = re.compile(r"'x-queue-type'.* but current is (?:the value )?'?(\w+)'?")
#: Names of this machine, and that of the broker in compose.yaml.
_HERE = {"localhost", "127.0.0.1", "::1", "rabbitmq"}
#: A reply code in the broker's own words, which tell that it runs.
_ANSWERED = re.compile(r": \d{3} [A-Z_]+\b")


class _Report:
    """Prints findings as they come."""

    def __init__(self) -> None:
        self._failures: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether anything is wrong."""
        return bool(self._failures)

    def good(self, text: str) -> None:
        say(f"ok    {text}")

    def note(self, text: str) -> None:
        say(f"note  {text}")

    def bad(self, text: str, remedy: str = "") -> None:
        # Such as a file that both the settings and the configuration are read from.
        if text not in self._failures:
            say(f"FAIL  {text}{'; ' + remedy if remedy else ''}")
        self._failures.append(text)


def examine(service: MQConnector) -> int:
    """Print what is right and what is wrong.

    :returns: exit code: 0 if requests would be answered, 1 if not
    """
    report = _Report()
    _examine_connector(report)
    _examine_variables(report)
    try:
        settings = service.settings()
    except MQError as error:
        report.bad(str(error))
        return 1
    report.good(f"configuration: {settings.source}, user {settings.username!r}")
    opened = session(service)
    try:
        opened.open()
    except MQError as error:
        silent = isinstance(error, NotConnected) and not _ANSWERED.search(str(error))
        report.bad(str(error), _where_to_look(settings) if silent else "")
        return 1
    try:
        version = ".".join(map(str, opened.link.broker.version))
        params = opened.link.amqp.params
        where = (params.host, params.port)
        report.good(
            f"broker: RabbitMQ {version} at {params.host}:{params.port}, logged in, vhost {service.vhost!r}"
        )
        _examine_others(report, service, where)
        for consumer in service.consumers.values():
            if consumer.is_private:
                report.note(
                    f"queue {_public_name(consumer)!r} is each process's own; health knows of it"
                )
            else:
                _examine_queue(report, opened, consumer.queue)
        _examine_alarm(report, service)
    except MQError as error:
        report.bad(str(error))
    finally:
        opened.close()
    _, reason = health.check(service.service_name)
    if reason == health.CONSUMING:
        report.good(f"health: {reason}")
    else:
        report.note(f"health: {reason}")
    return int(report.failed)


def _where_to_look(settings: Settings) -> str:
    """What to do where no broker answers: one on this machine may be the repository's own, any other isn't."""
    if {host for host, _ in settings.hosts} <= _HERE:
        return (
            "is RabbitMQ running? `docker compose up -d rabbitmq` starts the repository's own, and so "
            "does `make broker` without Docker"
        )
    return "does a broker run there? MQ_SERVER and MQ_PORT, or else mq_config.json, say where it is"


def _examine_connector(report: _Report) -> None:
    """Whoever asks for help is asked for this first; an edited connector is no fault."""
    try:
        first, *differences = inventory.report()
    except inventory.ManifestError as error:
        report.note(str(error))
        return
    (report.note if differences else report.good)(first)
    for line in differences:
        report.note(line)


def _examine_variables(report: _Report) -> None:
    """What the service reads at its start, beside where the broker is and who we are there."""
    looks: list[Callable[[], object]] = [
        check_ranges,
        lambda: level_of(environment()),
        lambda: form_of(environment()),
    ]
    for look in looks:
        try:
            look()
        except MQError as error:
            report.bad(str(error))
            return
    for sentence in mistaken():
        report.note(sentence)
    _examine_extras(report)


def _examine_extras(report: _Report) -> None:
    """What a setting needs may be installed where the service runs, as in its image, and not here."""

    def counting() -> None:
        from ..metrics.metrics import exposition

        exposition()

    def spans() -> None:
        from ..tracing.tracing import check

        check()

    for is_wanted, look in ((metrics_port() is not None, counting), (tracing(), spans)):
        try:
            if is_wanted:
                look()
        except MQError as error:
            report.note(f"{error}; here the service wouldn't start")


def _examine_others(report: _Report, service: MQConnector, first: tuple[str, int]) -> None:
    """Of several hosts one is enough; each other that a service couldn't go to is named."""
    for each in service.address().parameters:
        if (each.host, each.port) == first:
            continue
        try:
            with Session([each], SHORTLY) as other:
                version = ".".join(map(str, other.link.broker.version))
        except MQError as error:
            report.note(f"{error}; the service does without it while another answers")
        else:
            report.good(f"broker: RabbitMQ {version} at {each.host}:{each.port}, logged in")


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
            report.bad(
                f"user may not make queue {queue!r} ({missing})",
                f"grant configure on it: {provisioned()}",
            )
    else:
        kind = session.run(_kind(queue))
        ready, count = found.message_count, found.consumer_count
        consumers = "consumer" if count == 1 else "consumers"
        report.good(f"queue: {queue!r}, {kind}, {ready} ready, {count} {consumers}")
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
            provisioned("makes it"),
        )
    elif dead.message_count:
        report.note(f"dead letters: {dead.message_count} in {queue + '.dead'!r}")
    else:
        report.good(f"dead letters: none in {queue + '.dead'!r}")


def _public_name(consumer: ConsumerThread) -> str:
    """The name of a private queue, without what this process has drawn: no such queue exists."""
    beginning, _ = family(consumer)
    return beginning if beginning == consumer.queue else f"{beginning}…"


def _kind(queue: str) -> Steps:
    """Of what kind a queue is. No method of AMQP tells, but the broker's refusal to declare it as
    another one does."""
    try:
        yield input_queue.declare(queue, durable=True, arguments=_NO_KIND)
    except ChannelError as error:
        if "'durable'" in error.text:
            return "transient classic"
        current = _CURRENT.search(error.text)
        if current:
            return "classic" if current[1] == "none" else printable(current[1])
    return "of unknown kind"


def _examine_alarm(report: _Report, service: MQConnector) -> None:
    try:
        reason = alarm(service)
    except ChannelError as error:
        report.bad(
            f"user may not publish ({error})",
            f"grant write on amq.default, where replies go: {provisioned()}",
        )
        return
    if reason:
        report.bad(reason, "`rabbitmqctl status` shows how much it has and how much it wants")
    else:
        report.good("publishing: the broker takes messages")


def _try(session: Session, steps: Steps) -> MQError | None:
    try:
        session.run(steps)
    except MQError as error:
        return error
    return None
