"""The queue that a service consumes: of which kind it is made, and when it is taken as it is."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Protocol

from pika.channel import Channel

from ..errors import ChannelError, MQError, StartError, provisioned
from ..logs import Logger
from .broker import (
    ACCESS_REFUSED,
    INTERNAL_ERROR,
    NOT_ALLOWED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    UNANSWERED,
    Broker,
)
from .scratch import Done, Operation, Scratch, Steps

_log = Logger(__name__)

_QUORUM = {"x-queue-type": "quorum"}
#: A queue that is only tried goes by itself, should nobody be left to delete it (rabbitmq.com/docs/ttl):
#: milliseconds, by far more than such a trial takes.
_SHORT_LIVED = {"x-expires": 300_000}
#: Reply codes for which a consumer that has never consumed gives up.
_FORBIDDEN = frozenset((ACCESS_REFUSED, RESOURCE_LOCKED, NOT_ALLOWED))


class Channels(Protocol):
    """Channels that may die, of an opened one."""

    @property
    def broker(self) -> Broker:
        """Who is at the other end."""

    @property
    def scratch(self) -> Scratch:
        """For whatever the broker may refuse."""

    @property
    def scratch_for_transient(self) -> Scratch:
        """For transient queues."""


def find_or_make(channels: Channels, queue: str, kind: str, done: Done) -> None:
    """Find the queue, or make it.

    :param channels: where it is looked for and made
    :param kind: one of `mq_connector.config.KINDS`
    :param done: called with nothing, or with the error that keeps us from consuming
    """

    def looked(found: Any, error: MQError | None) -> None:
        if error is not None:
            done(None, error)
        elif found is not None:
            channels.scratch_for_transient.run(compare(queue, kind), done)
        elif kind != "auto":
            make_it(None, None)
        elif not channels.broker.may_relax:
            make_it(False, None)
        else:
            channels.scratch_for_transient.run(tolerates_legacy(queue), make_it)

    def make_it(tolerant: bool | None, error: MQError | None) -> None:
        if error is not None:
            done(None, error)
        else:
            channels.scratch_for_transient.run(make(queue, kind, tolerant), done)

    channels.scratch.run(exists(queue), looked)


def declare(queue: str, **options: Any) -> Operation:
    """A ``queue.declare`` with pika's options, as an operation."""

    def operation(channel: Channel, done: Callable[[Any], None]) -> None:
        channel.queue_declare(queue, callback=done, **options)

    return operation


def delete(queue: str) -> Operation:
    """A ``queue.delete`` as an operation."""
    return lambda channel, done: channel.queue_delete(queue, callback=done)


def exists(queue: str) -> Steps:
    """Look for a queue without touching it.

    :returns: the broker's ``Queue.DeclareOk``, or None
    :raises ChannelError: 405 where it belongs to another connection
    """
    try:
        return (yield declare(queue, passive=True)).method
    except ChannelError as error:
        if error.code != NOT_FOUND:
            raise
        return None


def tolerates_legacy(queue: str) -> Steps:
    """Find out whether this broker lets a legacy client re-declare a quorum queue as a transient one.

    RabbitMQ 4 does with ``quorum_queue.property_equivalence.relaxed_checks_on_redeclaration``. No
    client can read that setting, so it is tried on a queue made for it. Both declarations say when that
    queue expires, as the checks of that argument are never relaxed.

    :returns: None where we may not even make such a queue
    """
    probe = _probe(queue)
    try:
        yield declare(probe, durable=True, arguments={**_QUORUM, **_SHORT_LIVED})
    except ChannelError as error:
        if error.code == UNANSWERED:
            raise  # a lost connection says nothing about the queue
        _log.debug("no probe queue: %s", error)
        return None
    try:
        yield declare(probe, arguments=_SHORT_LIVED)
    except ChannelError as error:
        if error.code == UNANSWERED:
            raise
        _log.debug("a legacy re-declaration fails here: %s", error)
        tolerant = False
    else:
        tolerant = True
    yield delete(probe)
    return tolerant


def may_make(queue: str) -> Steps:
    """Make a queue beside the input queue, and delete it: who may do that may make the other one.

    :raises ChannelError: we may not
    """
    probe = _probe(queue)
    yield declare(probe, durable=True, arguments={**_QUORUM, **_SHORT_LIVED})
    yield delete(probe)


def _probe(queue: str) -> str:
    """A name that `rabbitmq/topology.py` lets the service's user have."""
    return f"{queue}.probe.{uuid.uuid4().hex}"


def make(queue: str, kind: str, tolerant: bool | None) -> Steps:
    """Make the input queue, which isn't there yet.

    :param kind: one of `mq_connector.config.KINDS`
    :param tolerant: what `tolerates_legacy` found; only ``auto`` asks
    :raises StartError: the broker won't let us have it
    """
    wanted = "legacy" if kind == "auto" and tolerant is False else kind
    try:
        yield _declaration(queue, wanted)
    except ChannelError as error:
        if error.code == UNANSWERED:
            raise
        if error.code == INTERNAL_ERROR and kind == "auto":
            _log.warning(
                "queue %r becomes durable, because this broker denies transient ones (%s), though it "
                "refuses Neon's clients then: see relaxed_checks_on_redeclaration in rabbitmq.conf",
                queue,
                error,
            )
            yield from make(queue, "quorum", None)
        elif (
            error.code != PRECONDITION_FAILED
        ):  # which says that somebody else has made it meanwhile
            raise start_error(queue, error) from None
        return
    if wanted != kind:
        _log.warning(
            "queue %r becomes a transient classic queue, because this broker would refuse Neon's clients "
            "(406) if it were durable: requests waiting in it don't survive a restart of the broker. "
            "Set MQ_QUEUE_TYPE=quorum if no client declares it",
            queue,
        )


def compare(queue: str, kind: str) -> Steps:
    """Say so where a queue that exists isn't of the kind asked for; it is used as it is.

    A queue is never deleted to change its kind: it may hold messages.
    """
    if kind == "auto":
        return
    try:
        yield _declaration(queue, kind)
    except ChannelError as error:
        if error.code == PRECONDITION_FAILED:
            _log.warning("queue %r isn't of type %s and is used as it is: %s", queue, kind, error)
        else:  # without the right to declare it, say, which it takes only to make it
            what = "whether queue %r is of type %s can't be seen, and it is used as it is: %s"
            _log.warning(what, queue, kind, error)


def _declaration(queue: str, kind: str) -> Operation:
    if kind == "legacy":
        return declare(queue)
    return declare(queue, durable=True, arguments=_QUORUM)


def start_error(queue: str, error: ChannelError) -> StartError:
    """What a refusal means to the person who runs the service."""
    if error.code == RESOURCE_LOCKED:
        return StartError(f"queue {queue!r} belongs exclusively to another connection: {error}")
    if error.code == ACCESS_REFUSED:
        remedy = provisioned("gives the right in the service's own vhost")
        return StartError(f"no permission for queue {queue!r}: {error}; {remedy}")
    return StartError(f"queue {queue!r} can't be used: {error}")


def explained(queue: str, error: MQError) -> MQError:
    """What keeps us from consuming: as a `StartError` where waiting can't heal it, otherwise as it is."""
    if isinstance(error, ChannelError) and error.code in _FORBIDDEN:
        return start_error(queue, error)
    return error
