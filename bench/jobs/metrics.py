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
from ..turns import Party, take_turns

#: Requests of a turn, turns of each process, and requests that it has answered before.
REQUESTS, TURNS, WARM = 2500, 4, 500
#: Of each kind: where two processes of the same kind have things in memory makes a twentieth.
PROCESSES = 12
_COUNTED = "counted"


class Metrics(Job):
    number = 13
    slug = "metrics"
    title = "Metrics: counted, or not"
    text = (
        "The reference job by processes of the service, half of them as it comes, half with the extra "
        "`metrics` and `MQ_METRICS_PORT`, which counts each request, how long its handler took and how long "
        "its reply. What is looked for is less than what two measurements differ by, and even than what two "
        f"processes of the same do. So {PROCESSES} of each take turns, {TURNS} times {REQUESTS} requests each, "
        "while the others are frozen (SIGSTOP). One that counts has its turn before or after one that doesn't: "
        "the ratio is the median of those of such pairs, as the machine's speed changes meanwhile. "
        f"All have {PREFETCH} messages ahead (`MQ_PREFETCH`). Nobody asks for the numbers meanwhile: a page of "
        "them costs for each question, not for each request."
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
        counting = replace(plain, peer=WITH_METRICS)
        fixed = {"MQ_PREFETCH": str(PREFETCH)}
        kinds = [
            [
                Party(
                    f"{name}-{number}", contender, REQUESTS, env={**fixed, **_port(name)}, warm=WARM
                )
                for number in range(PROCESSES)
            ]
            for name, contender in (("not-counted", plain), (_COUNTED, counting))
        ]
        taken = take_turns(
            lab, [party for pair in zip(*kinds, strict=True) for party in pair], TURNS
        )
        without, counted = (
            [us for party in parties for us in taken[party.name].cpu_us] for parties in kinds
        )
        return {
            "cpu_us": statistics.median(without),
            "counted_us": statistics.median(counted),
            "ratio": statistics.median(map(operator.truediv, counted, without)),
        }


def _port(name: str) -> dict[str, str]:
    return {"MQ_METRICS_PORT": str(_free_port())} if name == _COUNTED else {}


def _free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
