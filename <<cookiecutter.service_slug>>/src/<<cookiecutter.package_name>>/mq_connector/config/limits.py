"""How much a consumer takes on at a time, from the variables that begin with ``MQ_``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..payload.body import MAX_DEPTH, MAX_SIZE
from .environment import environment
from .values import is_on, shown, whole

#: Values of ``MQ_QUEUE_TYPE``.
KINDS = ("auto", "quorum", "legacy")
#: Values of ``MQ_REJECTED``.
REJECTED = ("acknowledge", "dead")


@dataclass(frozen=True)
class Limits:
    """How much a consumer takes on at a time."""

    #: Threads that run callbacks, or tasks where these are async; 1 keeps the order of messages.
    workers: int = 1
    #: Deliveries that the broker sends ahead (AMQP ``basic.qos``); by default as many as are handled
    #: within a fifth of a second, see `mq_connector.consumer.workers.pace`.
    prefetch: int | None = None
    #: Seconds after which a callback counts as stuck, and a consumer with no other worker as unwell; 0
    #: for never.
    stuck: int = 0
    #: ``auto``, ``quorum`` or ``legacy``, see `mq_connector.connection.input_queue`.
    queue_type: str = "auto"
    #: Bytes that a body may have, and levels of brackets in it, see `mq_connector.payload.body`.
    max_body: int = MAX_SIZE
    max_depth: int = MAX_DEPTH
    #: What becomes of a request that its handler refuses (`mq_connector.errors.RequestError`), beside the answer:
    #: ``acknowledge``, or ``dead`` for the dead letters.
    rejected: str = "acknowledge"

    @property
    def remark(self) -> str:
        """What of these has no effect beside the others, in words; empty if all have."""
        idle = self.workers - self.prefetch if self.prefetch else 0
        if idle <= 0:
            return ""
        return (
            f"{idle} of {self.workers} workers never have anything to do, as the broker sends only "
            f"{self.prefetch} ahead: set MQ_PREFETCH to {self.workers} or more, or leave it out"
        )

    @classmethod
    def from_environment(cls) -> Limits:
        """Each limit from the variable with ``MQ_`` before its name, such as ``MQ_WORKERS``.

        :raises ConfigurationError: a value is out of its range
        """
        env = environment()
        workers = _whole(env, "MQ_WORKERS", cls.workers, 1, 1000)
        prefetch = _whole(env, "MQ_PREFETCH", 1, 1, 65535) if env.get("MQ_PREFETCH") else None
        stuck = _whole(env, "MQ_STUCK", cls.stuck, 0, 86400)
        queue_type = _one_of(env, "MQ_QUEUE_TYPE", cls.queue_type, KINDS)
        max_body = _whole(env, "MQ_MAX_BODY", cls.max_body, 1, 2**31 - 1)
        # A deeper one would run into Python's own limit of recursion.
        max_depth = _whole(env, "MQ_MAX_DEPTH", cls.max_depth, 1, 500)
        rejected = _one_of(env, "MQ_REJECTED", cls.rejected, REJECTED)
        return cls(workers, prefetch, stuck, queue_type, max_body, max_depth, rejected)


def metrics_port() -> int | None:
    """Where metrics are to be served (``MQ_METRICS_PORT``); None for nowhere.

    :raises ConfigurationError: it isn't a port
    """
    env = environment()
    return _whole(env, "MQ_METRICS_PORT", 1, 1, 65535) if env.get("MQ_METRICS_PORT") else None


def tracing() -> bool:
    """Whether spans are to be made (``MQ_TRACING``).

    :raises ConfigurationError: it says neither yes nor no
    """
    return is_on("MQ_TRACING", environment().get("MQ_TRACING", ""))


def _whole(env: Mapping[str, str], variable: str, default: int, least: int, most: int) -> int:
    text = env.get(variable)
    number = whole(text or default, least, most)
    if number is None:
        raise ConfigurationError(
            f"{variable} is {shown(text)}; it must be a whole number from {least} to {most}"
        )
    return number


def _one_of(env: Mapping[str, str], variable: str, default: str, allowed: tuple[str, ...]) -> str:
    value = env.get(variable) or default
    if value not in allowed:
        raise ConfigurationError(
            f"{variable} is {shown(value)}; it must be one of {', '.join(allowed)}"
        )
    return value


def check_ranges() -> None:
    """Read all of these, for whoever has to know before they count.

    :raises ConfigurationError: one is out of its range
    """
    Limits.from_environment()
    metrics_port()
    tracing()
