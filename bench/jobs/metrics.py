"""Job 13: what it costs to count, where metrics are wanted."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Sequence
from dataclasses import replace

from ..contenders import BY_NAME, OURS
from ..environment import WITH_METRICS
from ..job import Job, Metric, Values
from ..lab import PREFETCH, Lab
from ..turns import Party, take_turns

#: Requests of a turn, turns of each, and requests that either has answered before.
REQUESTS, TURNS, WARM = 2500, 16, 500


class Metrics(Job):
    number = 13
    slug = "metrics"
    title = "Metrics: counted, or not"
    text = (
        "The reference job by two processes of the service, one as it comes, one with the extra "
        "`metrics` and `MQ_METRICS_PORT`, which counts each request, how long its handler took and how long "
        "its reply. What is looked for is less than what two measurements differ by, so they take turns, in "
        f"{TURNS} pairs of {REQUESTS} requests each, while the other one is frozen (SIGSTOP): the ratio "
        f"is the median of the pairs'. Both have {PREFETCH} messages ahead (`MQ_PREFETCH`). Nobody asks for the "
        "numbers meanwhile: a page of them costs for each question, not for each request."
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
        plain = BY_NAME[OURS]
        port = {"MQ_METRICS_PORT": str(_free_port())}
        fixed = {"MQ_PREFETCH": str(PREFETCH)}
        both = [
            Party("not-counted", plain, REQUESTS, env=fixed, warm=WARM),
            Party(
                "counted",
                replace(plain, peer=WITH_METRICS),
                REQUESTS,
                env={**fixed, **port},
                warm=WARM,
            ),
        ]
        taken = take_turns(lab, both, TURNS)
        without, counted = (taken[party.name].cpu_us for party in both)
        return {
            "cpu_us": statistics.median(without),
            "counted_us": statistics.median(counted),
            "ratio": statistics.median(
                more / less for more, less in zip(counted, without, strict=True)
            ),
        }


def _free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
