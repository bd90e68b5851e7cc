"""Job 13: what it costs to count, where metrics are wanted."""

from __future__ import annotations

import operator
import socket
import statistics
from collections.abc import Sequence
from dataclasses import replace

from ..contenders import BY_NAME, OURS
from ..environment import WITH_METRICS
from ..job import Job, Metric, Values
from ..lab import PREFETCH, Lab
from ..turns import Party, take_turns_within

#: Requests of a turn, turns of each queue, and requests that it has had before. Two neighbouring turns differ by a
#: sixth in what they take (a standard deviation), so a round needs many to tell one or two per cent.
REQUESTS, TURNS, WARM = 2500, 20, 500
#: In each round. Two processes of the same kind differ by a twentieth, the ratios within them no more than by chance.
PROCESSES = 8


class Metrics(Job):
    number = 13
    slug = "metrics"
    title = "Metrics: counted, or not"
    text = (
        "The reference job by the service with the extra `metrics` and `MQ_METRICS_PORT`, which counts each "
        "request, how long its handler took and how long its reply. What is looked for is less than what two "
        "processes of the same kind differ by, so both are in one: it consumes two queues, and leaves one of them "
        f"out of its metrics. The two take turns, {TURNS} times {REQUESTS} requests each, while nothing waits in "
        f"the other; so in each of {PROCESSES} processes, of which every other one leaves out the other queue. The "
        "ratio is the median of those of neighbouring turns, as the machine's speed changes meanwhile. "
        f"All have {PREFETCH} messages ahead (`MQ_PREFETCH`). Nobody asks for the numbers meanwhile: a page of "
        "them costs for each question, not for each request. What the port takes in memory and at the start isn't "
        "in it either."
    )
    metrics = (
        Metric("counted_us", "CPU µs per request, counted", 1),
        Metric("cpu_us", "not counted", 1),
        Metric("ratio", "ratio", 3),
    )
    reference = None

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else ("",)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS,)

    def rounds(self, case: str, quick: bool) -> int:
        return 2  # Each is a median already.

    def peer(self, row: str) -> str | None:
        return WITH_METRICS

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = replace(BY_NAME[OURS], peer=WITH_METRICS)
        counted: list[float] = []
        without: list[float] = []
        for number in range(PROCESSES):
            party = Party(
                f"metrics-{number}",
                contender,
                REQUESTS,
                task=f"uncounted {number % 2}",
                consumers=2,
                env={"MQ_PREFETCH": str(PREFETCH), "MQ_METRICS_PORT": str(_free_port())},
                warm=WARM,
            )
            taken = take_turns_within(lab, party, TURNS)
            without += taken[number % 2].cpu_us
            counted += taken[1 - number % 2].cpu_us
        return {
            "cpu_us": statistics.median(without),
            "counted_us": statistics.median(counted),
            "ratio": statistics.median(map(operator.truediv, counted, without)),
        }


def _free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
