"""Job 4: handlers that take their time."""

from __future__ import annotations

from collections.abc import Sequence

from ..contenders import BLOCKING, BY_NAME, OURS, PYTHON, RAW
from ..job import Job, Metric, Values
from ..lab import Lab

#: What the handler does, how many at a time, how many requests.
CASES = {
    "100 ms of waiting, one at a time": ("sleep 0.1", 1, 15),
    "100 ms of waiting, 32 at a time": ("sleep 0.1", 32, 800),
    "5 ms of computing, one at a time": ("spin 0.005", 1, 300),
}
#: Those that tell the contenders apart; of the others a few are enough, who are all at the bound.
MANY = "32 at a time"
#: Requests for those who handle one at a time, whatever they are asked for.
ALONE = 15


class Handlers(Job):
    number = 4
    slug = "handlers"
    title = "Handlers that wait or compute"
    text = (
        "Handlers call `time.sleep`, as a request to another server would, or use the processor. "
        "32 at a time are 32 workers or threads where the framework has such a thing, and tasks that "
        "hand the work to threads where it is asynchronous. The bound is 10 requests/s for each "
        "worker that waits, 200 requests/s for one that computes. Counted from the first request to the "
        "last reply. Those that have one handler at a time by design get fewer requests where 32 are "
        "asked for. Where there is one at a time, everybody is at the bound, so only three are measured."
    )
    left_out = (
        "Left out: aio-pika without confirms, whose handlers are those of aio-pika; C and Go, as what "
        "counts here is the handler's time."
    )
    peer_rounds = 1
    metrics = (
        Metric("rate", "requests/s", 1, "higher", plot=True),
        Metric("cpu_us", "CPU µs per request", 0, "lower"),
    )
    reference = None

    def cases(self, quick: bool) -> Sequence[str]:
        return tuple(CASES)[1:2] if quick else tuple(CASES)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        if quick:
            return (OURS, RAW)
        if not case.endswith(MANY):
            return (OURS, RAW, BLOCKING)
        return tuple(name for name in PYTHON if name != "aio-pika-bare")

    def rounds(self, case: str, quick: bool) -> int:
        return super().rounds(case, quick) if case.endswith(MANY) else 1

    def reason(self, case: str, first: str) -> str:
        return (
            "a contender that runs as many handlers as were asked for is at the bound; "
            "the rest is scatter."
        )

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        task, workers, count = CASES[case]
        if not contender.concurrent and workers > 1:
            workers, count = 1, ALONE
        return lab.handle(contender, count, task=task, workers=workers)
