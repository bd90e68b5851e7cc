"""Job 1, the reference job: a queue full of requests."""

from __future__ import annotations

from collections.abc import Sequence

from ..contenders import BLOCKING, BY_NAME, LIMIT, ONLY_ACKS, OURS, RAW
from ..job import COMPILED, Job, Metric, Values
from ..lab import PREFETCH, Lab

#: Seconds after which enough is seen.
LIMIT_S = 1.5
QUICK = (OURS, RAW, "neon-message", "neon-select", "faststream", "aio-pika")


class Drain(Job):
    number = 1
    slug = "drain"
    title = "The reference job: requests that wait in the queue"
    text = (
        "Requests of about 250 bytes in Neon's form lie ready: the service consumes already, and is "
        "frozen (SIGSTOP) until they do. It decodes one, sends a reply of the same form to the queue "
        "that the request names, and then acknowledges. "
        f"Every contender gets {PREFETCH} messages ahead (the generated service finds out by itself that "
        "as many are worth having in hand), and the client takes the replies away. "
        f"A contender that isn't done after {LIMIT_S:g} s is measured by what it has done until then. "
        "A client that only acknowledges shows what the broker has to give; it is no contender. "
        "CPU is that of the service's process alone, user and system, as the operating system "
        "accounts for it."
    )
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower", plot=True),
        Metric("rate", "requests/s", 0, "higher", plot=True),
    )

    peer_rounds = 1
    bounds = (LIMIT,)

    def cases(self, quick: bool) -> Sequence[str]:
        return ("",)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return QUICK if quick else (*BY_NAME, LIMIT)

    def reason(self, case: str, first: str) -> str:
        return COMPILED if BY_NAME[first].compiled else ""

    def label(self, row: str) -> str:
        return ONLY_ACKS.label if row == LIMIT else super().label(row)

    def peer(self, row: str) -> str | None:
        return ONLY_ACKS.peer if row == LIMIT else super().peer(row)

    def rounds(self, case: str, quick: bool) -> int:
        return 2 if quick else 5

    def rounds_of(self, case: str, row: str, quick: bool) -> int:
        # Ratios are taken of these two as well.
        return 2 if row in (BLOCKING, "neon-message") else super().rounds_of(case, row, quick)

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = ONLY_ACKS if row == LIMIT else BY_NAME[row]
        count, limit = (6000, 1.5) if quick else (30_000, LIMIT_S)
        with lab.client() as client:
            lab.prepare(client, contender)
        if row == LIMIT:
            return lab.acknowledge(contender, lab.bodies(contender, count), count, limit)
        return lab.drain(contender, lab.bodies(contender, count), count, limit)
