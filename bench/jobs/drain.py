"""Job 1, the reference job: a queue full of requests."""

from __future__ import annotations

from collections.abc import Sequence

from ..contenders import BY_NAME, OURS, RAW
from ..job import Job, Metric, Values
from ..lab import PREFETCH, Lab
from ..service import QUEUE

QUICK = (OURS, RAW, "neon-message", "neon-select", "faststream", "aio-pika")


class Drain(Job):
    number = 1
    slug = "drain"
    title = "The reference job: requests that wait in the queue"
    text = (
        "Requests of about 250 bytes in Neon's form lie ready: the service consumes already, and is "
        "frozen (SIGSTOP) until they do. It decodes one, sends a reply of the same form to the queue "
        "that the request names, and then acknowledges. "
        f"Every contender gets {PREFETCH} messages ahead, and the client takes the replies away. "
        "Whoever isn't done after 4 s is measured by what it has done until then. "
        "CPU is that of the service's process alone, user and system, as the operating system "
        "accounts for it."
    )
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower", plot=True),
        Metric("rate", "requests/s", 0, "higher", plot=True),
    )

    def cases(self, quick: bool) -> Sequence[str]:
        return ("",)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return QUICK if quick else tuple(BY_NAME)

    def rounds(self, case: str, quick: bool) -> int:
        return 2 if quick else 5

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        count, limit = (6000, 1.5) if quick else (30_000, 4.0)
        with lab.client() as client:
            lab.prepare(client, contender)
        return lab.drain(contender, {QUEUE: lab.bodies(contender, count)}, count, limit)
