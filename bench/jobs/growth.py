"""Job 9: whether a request costs the same however many there are, and however many queues."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice

from ..contenders import BY_NAME, OURS, RAW, Contender
from ..job import Job, Metric, Place, Values
from ..lab import AFTERWARDS, REPLIES, START, Lab
from ..service import QUEUE
from ..turns import Party, take_rounds
from ..wire import Client

QUEUED = {"10² queued": 100, "10³ queued": 1000, "10⁴ queued": 10_000}
LONGEST = "10⁶ queued"
QUEUED |= {"10⁵ queued": 100_000, LONGEST: 1_000_000}
QUEUES = {"1 queue": 1, "16 queues": 16, "64 queues": 64}
#: Requests of a turn in all queues together, in the second half of the job, and of the bare loop, which takes
#: longer.
SHARED = {OURS: 25_600, RAW: 12_800}
#: Turns of each in a round: single ones of the same differ by a fifth, and of ours flatness is asked.
TURNS = {OURS: 3, RAW: 1}
#: How often, and for how many seconds each time, the longest queue is watched: filling it takes long.
WATCHES, CUT = 2, 3.0
#: Seconds of the others that are watched, and requests that each of several queues has before.
LIMIT_S, WARM = 2.0, 20
#: Distinct requests of the longest queue, which has them again and again.
DISTINCT = 20_000
#: Seconds that the broker has for an answer while it works at the longest.
PATIENCE = 60.0
#: How often few requests are sent.
BURSTS = 10


class Growth(Job):
    number = 9
    slug = "growth"
    title = "Growth: more requests, more queues"
    text = (
        "The reference job with a hundred to a million requests in the queue, and with "
        f"{SHARED[OURS]} requests ({SHARED[RAW]} for the bare loop) spread over 1 to 64 queues, each with a "
        "consumer of its own. The three that consume "
        "so many run all the time and take turns, the others frozen meanwhile; a round of the generated service is "
        f"the median of {TURNS[OURS]} turns. The consumers "
        "share one connection, as those of a service do that are given the same one: each has a channel "
        "and, in the generated service, a thread. Flat is good. "
        "Up to a thousand requests there is too little to watch while it is drained, so "
        f"there it is the mean of {BURSTS} bursts, from the first request to the last reply. Of a million "
        f"requests those are watched that are answered within {CUT:.0f} s, after the first ones, and as long "
        f"again by a new process; of a hundred thousand or fewer those within {LIMIT_S:g} s. Who takes turns has answered {WARM} requests of "
        "each queue before, so that what is measured is not the start; that is the time from the start of the "
        "process until the broker lists a consumer of each queue, and memory while idle is that of the "
        "moment after it."
    )
    left_out = (
        "Only the bare loop is beside it: the question is whether our own cost grows, and it says what "
        "the broker's part of that is."
    )
    matrix = True
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower"),
        Metric("rate", "requests/s", 0, "higher"),
        Metric("peak_mb", "MB at most", 1, "lower"),
        Metric("idle_mb", "MB idle", 1, "lower"),
        Metric("consuming_s", "s to consuming", 2, "lower"),
    )

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else (*QUEUED, *QUEUES)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS, RAW)

    def rounds(self, case: str, quick: bool) -> int:
        if case in (LONGEST, "10⁵ queued"):
            return 1
        return 3 if case == "10³ queued" or case in QUEUES else 2

    def rounds_of(self, case: str, row: str, quick: bool) -> int:
        most = super().rounds_of(case, row, quick)
        return min(most, 2) if case in QUEUES and row == RAW else most

    def together(self, case: str, row: str) -> str:
        return row if case in QUEUES else ""

    def measure_together(
        self, lab: Lab, those: Sequence[Place], rounds: int, quick: bool
    ) -> Mapping[Place, Sequence[Values]]:
        parties = {
            (case, row): Party(
                f"queues-{QUEUES[case]}",
                BY_NAME[row],
                SHARED[row],
                consumers=QUEUES[case],
                warm=WARM,
            )
            for case, row in those
        }
        [row] = {row for _, row in those}
        return take_rounds(lab, parties, rounds, TURNS[row])

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        count = QUEUED[case]
        if count <= 1000:
            return bursts(lab, contender, count)
        if case == LONGEST:
            return longest(lab, contender, count)
        with lab.client() as client:
            lab.prepare(client, contender)
            try:
                return lab.drain(contender, lab.bodies(contender, count), count, LIMIT_S)
            finally:
                client.delete(QUEUE)


def longest(lab: Lab, contender: Contender, count: int) -> dict[str, float]:
    """Watch a contender at the beginning of a long queue. To fill it takes longer than a frozen process may miss
    heartbeats, so it is filled first, and left for the next contender, which fills it up again.

    The mean of several times, each in a process of its own.
    """
    times = [_watch(lab, contender, count) for _ in range(WATCHES)]
    return {name: sum(each[name] for each in times) / WATCHES for name in times[0]}


def _watch(lab: Lab, contender: Contender, count: int) -> dict[str, float]:
    with Client(lab.address, PATIENCE) as client:
        lab.declare(client, QUEUE, contender, False)
        client.delete(REPLIES)
        lab.declare(client, REPLIES, None, False)
        there = client.declare(QUEUE, passive=True)[0]
        stock = list(lab.bodies(contender, DISTINCT))
        client.fill(QUEUE, islice(cycle(stock), count - there), consumed=True)
        while client.declare(QUEUE, passive=True)[0] < count:
            time.sleep(0.1)
        with lab.client() as reader:
            reader.consume(REPLIES)
            with lab.start(contender) as process:
                values = lab.cpu_per_request(process, reader, count, CUT)
                return {**values, "peak_mb": process.peak()}


def bursts(lab: Lab, contender: Contender, count: int) -> dict[str, float]:
    """Send that many requests at once to a contender that waits for them, several times."""
    with lab.client() as client, lab.client() as reader:
        lab.prepare(client, contender)
        reader.consume(REPLIES)
        with lab.start(contender) as process:
            client.wait_for_consumers(QUEUE, 1, START)
            used = seconds = 0.0
            for number in range(BURSTS + 1):
                bodies = list(lab.bodies(contender, count))
                before, began = process.cpu(), time.monotonic()
                client.fill(QUEUE, bodies, consumed=True)
                wanted = count * (number + 1)
                if reader.count_replies(wanted, began + START) < wanted:
                    raise TimeoutError(f"{wanted - reader.replies} requests without a reply")
                if number:  # the first one warms up
                    seconds += time.monotonic() - began
                time.sleep(AFTERWARDS)
                if number:
                    used += process.cpu() - before
            peak = process.peak()
    rate = BURSTS * count / seconds
    return {"cpu_us": used / BURSTS / count * 1e6, "rate": rate, "peak_mb": peak}
