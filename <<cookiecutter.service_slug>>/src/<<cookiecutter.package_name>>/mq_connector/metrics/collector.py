"""What was counted, as Prometheus takes it; the only place that needs prometheus-client."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from ..consumer import ConsumerThread
from ..consumer.outbox.dead_letters import service_version
from .counts import Counts, Durations
from .endpoint import Reply

#: Consumers with what is counted for them, by their queue.
ByQueue = dict[str, list[tuple[ConsumerThread, Counts]]]

#: Counters of what is rare, with what they say.
_RARE = {
    "failed": "Messages whose handling has failed",
    "rejected": "Messages that callbacks have rejected for good",
    "requeued": "Messages that callbacks have put back into the queue",
    "retried": "Messages that come again later, as their callback has asked for",
    "dead_lettered": "Messages that this process has dead-lettered: failed or rejected ones",
}


class Exposition:
    """Answers a scrape.

    :param by_queue: who is counted for
    """

    def __init__(self, by_queue: Callable[[], ByQueue]) -> None:
        self._registry = CollectorRegistry()
        # What the registry asks of one, though not by inheritance: the library's classes may be missing.
        collector: Any = _Collector(by_queue)
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def metrics(self, accept: str) -> Reply:
        """The page.

        :param accept: the header of that name, which says in which form
        """
        encode, content_type = choose_encoder(accept)
        return Reply(200, content_type, encode(self._registry))


class _Collector:
    """Asks for all numbers when somebody wants them. Its only labels are the names of queues."""

    def __init__(self, by_queue: Callable[[], ByQueue]) -> None:
        self._by_queue = by_queue
        self._build = {
            "version": service_version(),
            "connector": _connector_version(),
            "python": platform.python_version(),
        }

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering asks for no number yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        by_queue = self._by_queue()
        yield from _counters(by_queue)
        yield from _histograms(by_queue)
        yield from _gauges(by_queue)
        connections = {consumer.connection for each in by_queue.values() for consumer, _ in each}
        reconnects = sum(max(0, each.attempts.links - 1) for each in connections)
        text = "Connections to the broker that have followed a lost one"
        yield CounterMetricFamily("mq_reconnects", text, value=reconnects)
        blocked = any(each.blocked for each in connections)
        text = "Whether the broker takes no messages from us: an alarm of memory or disk"
        yield GaugeMetricFamily("mq_broker_blocked", text, value=blocked)
        text = "Versions of the service, of its connector and of Python"
        yield InfoMetricFamily("mq_build", text, value=self._build)


def _counters(by_queue: ByQueue) -> Iterator[Metric]:
    received = CounterMetricFamily(
        "mq_messages_received", "Messages that the broker has delivered", labels=["queue"]
    )
    rare = {
        what: CounterMetricFamily(f"mq_messages_{what}", text, labels=["queue"])
        for what, text in _RARE.items()
    }
    for queue, consumers in by_queue.items():
        received.add_metric([queue], sum(counts.received for _, counts in consumers))
        for what, family in rare.items():
            family.add_metric([queue], sum(counts.rare(what) for _, counts in consumers))
    yield received
    yield from rare.values()


def _histograms(by_queue: ByQueue) -> Iterator[Metric]:
    handler = HistogramMetricFamily(
        "mq_handler_seconds", "Seconds that callbacks took", labels=["queue"]
    )
    delay = HistogramMetricFamily(
        "mq_reply_delay_seconds",
        "Seconds from a message's arrival to its reply, error replies included",
        labels=["queue"],
    )
    answered = CounterMetricFamily(
        "mq_messages_answered", "Replies, error replies included", labels=["queue"]
    )
    for queue, consumers in by_queue.items():
        handled, answers = Durations(), Durations()
        for _, counts in consumers:
            more_handled, more_answers = counts.durations()
            handled.add_all(more_handled)
            answers.add_all(more_answers)
        handler.add_metric([queue], handled.cumulated(), handled.total)
        delay.add_metric([queue], answers.cumulated(), answers.total)
        answered.add_metric([queue], sum(answers.buckets))
    yield from (handler, delay, answered)


def _gauges(by_queue: ByQueue) -> Iterator[Metric]:
    texts = {
        "mq_messages_in_flight": "Messages that have come and aren't settled",
        "mq_consumer_up": "Consumers that the broker has of us, as far as we know",
        "mq_workers": "Callbacks that may run at a time",
        "mq_workers_busy": "Callbacks that run",
    }
    families = [GaugeMetricFamily(name, text, labels=["queue"]) for name, text in texts.items()]
    for queue, consumers in by_queue.items():
        workers = [counts.workers for _, counts in consumers if counts.workers is not None]
        values = (
            sum(counts.in_flight for _, counts in consumers),
            sum(consumer.is_consuming for consumer, _ in consumers),
            sum(each.sizes.workers for each in workers),
            sum(each.busy for each in workers),
        )
        for family, value in zip(families, values, strict=True):
            family.add_metric([queue], value)
    yield from families


def _connector_version() -> str:
    """As its manifest says; empty where there is none."""
    manifest = Path(__file__).resolve().parent.parent / "manifest.sha256"
    try:
        first = manifest.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, ValueError):
        return ""
    return first.removeprefix("# mq_connector ")
