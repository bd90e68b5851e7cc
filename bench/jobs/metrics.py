"""Job 13: what it costs to count, where metrics are wanted."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

from ..contenders import BY_NAME, OURS
from ..environment import WITH_METRICS
from ..job import Job, Metric, Values
from ..lab import PREFETCH, REPLIES, START, Lab, at_rest
from ..process import Process
from ..service import QUEUE
from ..wire import Client

#: Requests of a slice, pairs of slices, and requests that either has answered before.
SLICE, PAIRS, WARM = 2500, 12, 500
#: Requests that wait all the time, so that no slice comes to the end of the queue.
_REST = 4 * PREFETCH


class Metrics(Job):
    number = 13
    slug = "metrics"
    title = "Metrics: counted, or not"
    text = (
        "The reference job by two processes of the service at one queue, one as it comes, one with the extra "
        "`metrics` and `MQ_METRICS_PORT`, which counts each request, how long its handler took and how long "
        "its reply. What is looked for is less than what two measurements differ by, so they take turns, in "
        f"{PAIRS} pairs of slices of about {SLICE} requests, while the other one is frozen (SIGSTOP): the ratio "
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
        with lab.client() as client, lab.client() as reader, ExitStack() as stack:
            lab.prepare(client, plain)
            reader.consume(REPLIES)
            both = [
                stack.enter_context(lab.start(contender, env={**fixed, **env}, log=log))
                for contender, env, log in (
                    (plain, {}, "not-counted"),
                    (replace(plain, peer=WITH_METRICS), port, "counted"),
                )
            ]
            client.wait_for_consumers(QUEUE, 2, START)
            bodies = lab.bodies(plain, _REST + 2 * (PAIRS + 1) * SLICE)
            client.fill(QUEUE, islice(bodies, _REST), consumed=True)
            for process in both:
                process.freeze()
            for process in both:
                client.fill(QUEUE, islice(bodies, WARM), consumed=True)
                _slice(process, reader, WARM)
            pairs = []
            for number in range(PAIRS):
                client.fill(QUEUE, islice(bodies, 2 * SLICE), consumed=True)
                turn = both if number % 2 else both[::-1]
                costs = {id(process): _slice(process, reader, SLICE) for process in turn}
                pairs.append([costs[id(process)] for process in both])
        return {
            "cpu_us": statistics.median(without for without, _ in pairs) * 1e6,
            "counted_us": statistics.median(counted for _, counted in pairs) * 1e6,
            "ratio": statistics.median(counted / without for without, counted in pairs),
        }


def _slice(process: Process, reader: Client, count: int) -> float:
    """Let a frozen process go on for about so many requests; seconds of processor time for each."""
    seen, before = at_rest(process, reader)
    process.thaw()
    reader.count_replies(seen + count - PREFETCH, time.monotonic() + START)
    process.check()
    now, after = at_rest(process, reader)
    if now <= seen:
        raise TimeoutError(f"no reply within {START:.0f} s")
    return (after - before) / (now - seen)


def _free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
