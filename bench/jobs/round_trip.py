"""Job 2: the time from a request to its reply."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..contenders import BY_NAME, GO, OURS, RAW, C
from ..job import COMPILED, Job, Metric, Values
from ..lab import REPLIES, START, Lab, request
from ..process import Process
from ..service import QUEUE
from ..wire import Client

#: For how long requests are kept in flight.
SECONDS = 1.0
#: The case for which all are measured.
ALL = "1 in flight"


class RoundTrip(Job):
    number = 2
    slug = "round-trip"
    title = "Round trip with 1, 16 and 256 requests in flight"
    text = (
        "The client keeps that many requests on their way: for each reply it sends another request. "
        "Milliseconds from the call that sends a request to the call that receives its reply. "
        "p99 is of at least a hundred round trips, p99.9 of a thousand; who makes fewer in "
        f"{SECONDS:g} s has none. All are measured with {ALL}; with more those that ratios are taken of."
    )
    metrics = (
        Metric("p50_ms", "p50 ms", 2, "lower", plot=True),
        Metric("p99_ms", "p99 ms", 2, "lower"),
        Metric("p999_ms", "p99.9 ms", 2, "lower"),
        Metric("rate", "requests/s", 0, "higher"),
    )

    def cases(self, quick: bool) -> Sequence[str]:
        return ("1 in flight",) if quick else ("1 in flight", "16 in flight", "256 in flight")

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        if quick:
            return (OURS, RAW)
        return tuple(BY_NAME) if case == ALL else (OURS, RAW, C, GO)

    peer_rounds = 1

    def rounds(self, case: str, quick: bool) -> int:
        return 2 if quick else 5 if case == "1 in flight" else 3

    def reason(self, case: str, first: str) -> str:
        return COMPILED if BY_NAME[first].compiled else ""

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        in_flight = int(case.split()[0])
        with lab.client() as client:
            lab.prepare(client, contender)
            client.wait_for_consumers(QUEUE, 0, 1)
            with lab.start(contender) as process:
                client.wait_for_consumers(QUEUE, 1, START)
                client.consume(REPLIES)
                # Requests are made beforehand, so that the client only sends.
                made = (request(contender, number) for number in range(200_000))
                frames = client.publisher(QUEUE)
                ready = ((key, frames(body)) for key, body in made)
                turn(client, process, ready, in_flight, 0.3)  # warm
                began = time.monotonic()
                times = turn(client, process, ready, in_flight, SECONDS)
                elapsed = time.monotonic() - began  # to the last reply
        times.sort()
        count = len(times)
        values = {"p50_ms": times[count // 2] * 1e3, "rate": count / elapsed, "requests": count}
        if count >= 100:
            values["p99_ms"] = times[count * 99 // 100] * 1e3
        if count >= 1000:
            values["p999_ms"] = times[count * 999 // 1000] * 1e3
        return values


def turn(
    client: Client,
    process: Process,
    ready: Iterator[tuple[bytes, bytes]],
    in_flight: int,
    seconds: float,
) -> list[float]:
    """Keep requests in flight for a while, then take the last replies; seconds of each."""
    clock = time.perf_counter
    sent: dict[bytes, float] = {}
    times: list[float] = []
    # What is sent next lies ready: making a request takes longer than sending it.
    stock = [next(ready) for _ in range(in_flight)]
    for key, data in stock:
        sent[key] = clock()
        client.send(data)
    stock = [next(ready) for _ in range(in_flight)]
    end = time.monotonic() + seconds
    while sent:
        for key in client.collect(time.monotonic() + 10):
            began = sent.pop(key, None)
            if began is None:
                continue  # a reply that was sent twice
            times.append(client.arrived - began)
            if time.monotonic() < end:
                key, data = stock.pop() if stock else next(ready)
                sent[key] = clock()
                client.send(data)
        while len(stock) < in_flight and time.monotonic() < end:
            stock.append(next(ready))
        if sent and time.monotonic() > end + 10:
            process.check()
            raise TimeoutError(f"{len(sent)} requests without a reply after 10 s")
    return times
