"""Job 9: whether a request costs the same however many there are, and however many queues."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..contenders import BY_NAME, OURS, RAW, Contender
from ..job import Job, Metric, Values
from ..lab import AFTERWARDS, REPLIES, START, Lab
from ..service import QUEUE

QUEUED = {"10² queued": 100, "10³ queued": 1000, "10⁴ queued": 10_000}
QUEUED |= {"10⁵ queued": 100_000, "10⁶ queued": 1_000_000}
QUEUES = {"1 queue": 1, "4 queues": 4, "16 queues": 16, "64 queues": 64}
#: Requests in all queues together, in the second half of the job.
SHARED = 64_000
#: Seconds of the longest queue that are watched.
CUT = 45.0
#: How often few requests are sent.
BURSTS = 10


class Growth(Job):
    number = 9
    slug = "growth"
    title = "Growth: more requests, more queues"
    text = (
        "The reference job with a hundred to a million requests in the queue, and with "
        f"{SHARED} requests spread over 1 to 64 queues, each with a consumer of its own and all on one "
        "connection: a channel and a thread for each in the generated service, a channel in the bare "
        "loop. Flat is good. Over many queues the threads of the service share one interpreter. "
        "Up to a thousand requests there is too little to watch while it is drained, so "
        f"there it is the mean of {BURSTS} bursts, from the first request to the last reply. Of a million "
        f"requests {CUT:.0f} s at most are watched, which the bare loop doesn't get done in."
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
    )

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else (*QUEUED, *QUEUES)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS, RAW)

    def rounds(self, case: str, quick: bool) -> int:
        return 3

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        queues = QUEUES.get(case, 1)
        count = QUEUED.get(case, SHARED)
        names = [QUEUE, *(f"{QUEUE}.{number}" for number in range(1, queues))]
        if count <= 1000:
            return bursts(lab, contender, count)
        with lab.client() as client:
            lab.prepare(client, contender)
            for name in names[1:]:
                client.delete(name)
                lab.declare(client, name, contender, False)
            try:
                if count <= 100_000:
                    each = count // queues
                    filled = {name: lab.bodies(contender, each) for name in names}
                    return lab.drain(contender, filled, each * queues, START, consumers=queues)
                # Too many for a frozen process, whose heartbeats would be missed meanwhile.
                client.fill(QUEUE, lab.bodies(contender, count))
                with lab.client() as reader:
                    reader.consume(REPLIES)
                    with lab.start(contender) as process:
                        values = lab.cpu_per_request(process, reader, count, CUT)
                        return {**values, "peak_mb": process.peak()}
            finally:
                for name in names:
                    client.delete(name)


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
