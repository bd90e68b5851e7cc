"""What there is to see: rows of numbers, of all processes together and of each one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...errors import printable
from .replica import Failure, Replica, quantile

#: What stands for a number that isn't known.
UNKNOWN = "–"
#: Errors that are shown.
_FAILURES = 8


@dataclass(frozen=True)
class Depth:
    """What the broker says of a queue; None where it can't be asked."""

    ready: int | None = None
    consumers: int | None = None
    dead: int | None = None


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    cells: tuple[str, ...]
    #: Whether something is wrong.
    is_bad: bool = False


@dataclass
class View:
    """All that is on the screen."""

    title: str
    broker: str
    is_broker_bad: bool
    queues: list[Row] = field(default_factory=list)
    replicas: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


QUEUE_COLUMNS = (
    *("queue", "ready", "consumers", "dead"),
    *("received/s", "answered/s", "failed/s", "retried/s"),
    *("p50", "p95", "reply p95", "in flight", "workers"),
)
REPLICA_COLUMNS = (
    *("process", "version", "up", "consumers", "CPU", "memory", "reconnects"),
    *("in flight", "workers"),
)


def view(
    name: str, replicas: Sequence[Replica], depths: dict[str, Depth], broker: str, trouble: str
) -> View:
    """Put it together.

    :param name: the service's
    :param depths: by the names of queues
    :param broker: which one it is
    :param trouble: why it can't be asked; empty if it can
    """
    answering = sum(each.now is not None for each in replicas)
    title = (
        f"{name}   {answering} of {len(replicas)} processes answer   {time.strftime('%H:%M:%S')}"
    )
    found = View(title, trouble or broker, bool(trouble))
    told = (queue for each in replicas if each.now for queue in each.now.queues)
    for queue in dict.fromkeys([*depths, *told]):
        found.queues.append(_queue(queue, replicas, depths.get(queue, Depth())))
    found.replicas = [_replica(each) for each in replicas]
    failures = {each for replica in replicas for each in replica.failures}
    found.failures = sorted(failures, reverse=True)[:_FAILURES]
    return found


def _queue(queue: str, replicas: Sequence[Replica], depth: Depth) -> Row:
    def rate(what: str) -> str:
        return _sum(each.rate(f"mq_messages_{what}_total", queue) for each in replicas)

    def quick(share: float, name: str) -> str:
        return _seconds(quantile(share, _together(name, queue, replicas)))

    running = [each.now for each in replicas if each.now is not None]
    busy = sum(each.value("mq_workers_busy", queue) for each in running)
    workers = sum(each.value("mq_workers", queue) for each in running)
    cells = (
        printable(queue),
        *(
            UNKNOWN if each is None else f"{each}"
            for each in (depth.ready, depth.consumers, depth.dead)
        ),
        *(rate(what) for what in ("received", "answered", "failed", "retried")),
        quick(0.5, "mq_handler_seconds"),
        quick(0.95, "mq_handler_seconds"),
        quick(0.95, "mq_reply_delay_seconds"),
        f"{sum(each.value('mq_messages_in_flight', queue) for each in running):.0f}",
        f"{busy:.0f} of {workers:.0f}",
    )
    return Row(cells, bool(depth.dead) or depth.consumers == 0)


def _replica(replica: Replica) -> Row:
    now, where = replica.now, str(replica.address)
    if now is None:
        return Row((where, replica.trouble, *(UNKNOWN for _ in REPLICA_COLUMNS[2:])), True)
    queues = now.queues
    up = sum(now.value("mq_consumer_up", each) for each in queues)
    cpu = replica.rate("process_cpu_seconds_total", "")
    started = now.value("process_start_time_seconds")
    busy = sum(now.value("mq_workers_busy", each) for each in queues)
    workers = sum(now.value("mq_workers", each) for each in queues)
    cells = (
        where,
        printable(now.version),
        _age(time.time() - started) if started else UNKNOWN,
        f"{up:.0f} of {len(queues)}",
        UNKNOWN if cpu is None else f"{cpu:.0%}",
        f"{now.value('process_resident_memory_bytes') / 2**20:.0f} MiB",
        f"{now.value('mq_reconnects_total'):.0f}",
        f"{sum(now.value('mq_messages_in_flight', each) for each in queues):.0f}",
        f"{busy:.0f} of {workers:.0f}",
    )
    return Row(cells, up < len(queues) or bool(now.value("mq_broker_blocked")))


def _together(name: str, queue: str, replicas: Sequence[Replica]) -> list[tuple[float, float]]:
    total: dict[float, float] = {}
    for each in replicas:
        for bound, count in each.grown(name, queue):
            total[bound] = total.get(bound, 0.0) + count
    return sorted(total.items())


def _sum(rates: Iterable[float | None]) -> str:
    known = [each for each in rates if each is not None]
    return f"{sum(known):.1f}" if known else UNKNOWN


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


def _age(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
