"""Job 6: from the process's start to its first answer, and what it occupies."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..contenders import BY_NAME, OURS, RAW, Contender
from ..job import Job, Metric, Values
from ..lab import REPLIES, START, Lab
from ..service import QUEUE

#: Seconds without work in which processor time is counted: a few of the service's heartbeats.
IDLE = 10.0
#: The case of that.
IDLING = "with nothing to do"


class Start(Job):
    number = 6
    slug = "start"
    title = "Start, memory, installed size"
    text = (
        "Seconds from the start of the process until the broker lists its consumer, and until the "
        "reply to a request that waited for it. Memory is the resident set one second after the start, "
        "and at most while it drains requests. Installed size is that of everything that pip installs "
        "for it, bytecode included; of a compiled program its own and its library's. "
        f"Idle is the processor time of {IDLE:.0f} s with nothing to do."
    )
    left_out = (
        "Left out: aio-pika without confirms, which starts as aio-pika does. Idle is measured once, of "
        "the service only."
    )
    metrics = (
        Metric("answer_s", "s to first answer", 3, "lower", plot=True),
        Metric("consuming_s", "s to consuming", 3, "lower"),
        Metric("cpu_s", "s of CPU to consuming", 3, "lower"),
        Metric("idle_mb", "MB idle", 1, "lower", plot=True),
        Metric("peak_mb", "MB under load", 1, "lower"),
        Metric("size_mb", "MB installed", 1, "lower"),
        Metric("idle_percent", "% of a core, idle", 3, "lower"),
    )
    peer_rounds = 1

    def cases(self, quick: bool) -> Sequence[str]:
        return ("",) if quick else ("", IDLING)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        if case == IDLING:
            return (OURS,)
        few = (OURS, RAW, "neon-select")
        return few if quick else tuple(name for name in BY_NAME if name != "aio-pika-bare")

    def rounds(self, case: str, quick: bool) -> int:
        return 1 if case == IDLING else 2 if quick else 3

    def reason(self, case: str, first: str) -> str:
        if case == IDLING:
            return ""
        return (
            "beside its client library the generated service loads its configuration, its connector and "
            "its health check, makes a second thread, and asks the broker of what kind the queue is "
            "before it consumes."
        )

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        if case == IDLING:
            return idle(lab, contender)
        values = {"size_mb": lab.environment(contender.peer).size()}
        with lab.client() as client, lab.client() as watcher:
            lab.prepare(client, contender)
            with lab.start(contender) as process:
                ready = watcher.wait_for_consumers(QUEUE, 1, START)
                values["consuming_s"] = ready - process.began
                values["cpu_s"] = process.cpu()
                time.sleep(1)
                values["idle_mb"] = process.resident()
            lab.prepare(client, contender)
            client.fill(QUEUE, lab.bodies(contender, 1))
            client.consume(REPLIES)
            with lab.start(contender) as process:
                client.count_replies(1, process.began + START)
                values["answer_s"] = time.monotonic() - process.began
                process.check()
                bodies = lab.bodies(contender, 1000 if quick else 5000)
                watcher.fill(QUEUE, bodies, consumed=True)
                client.count_replies(1 << 62, time.monotonic() + 1.0)
                values["peak_mb"] = process.peak()
        return values


def idle(lab: Lab, contender: Contender) -> dict[str, float]:
    """Processor time of a contender without requests, from a second after its start, in percent of one core."""
    with lab.client() as client:
        lab.prepare(client, contender)
        with lab.start(contender) as process:
            client.wait_for_consumers(QUEUE, 1, START)
            time.sleep(1)
            before = process.cpu()
            time.sleep(IDLE)
            return {"idle_percent": (process.cpu() - before) / IDLE * 100}
