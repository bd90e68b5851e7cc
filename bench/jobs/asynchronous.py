"""Job 12: handlers that are async."""

from __future__ import annotations

from collections.abc import Sequence

from ..contenders import BY_NAME, OURS
from ..job import Job, Metric, Values
from ..lab import Lab

ECHO, SLEEP = "an async echo", "1000 at a time, each asleep for 100 ms"
#: Seconds after which enough is seen of the echo.
_LIMIT_S = 2.0
#: Requests at a time, and in all, where each sleeps.
_AT_A_TIME, _REQUESTS = 1000, 12_000
#: Those whose handlers are async.
FASTSTREAM, AIO_PIKA = "faststream", "aio-pika"


class Asynchronous(Job):
    number = 12
    slug = "asynchronous"
    title = "Handlers that are async"
    text = (
        "The reference job with a handler that is an `async def`, which in FastStream and aio-pika it always "
        "is; then one that waits for `asyncio.sleep(0.1)`, a thousand at a time (`MQ_WORKERS=1000`, a prefetch "
        "of 1000 for the others), counted from the first request to the last reply: "
        "the bound is 10 000 requests/s."
    )
    left_out = "Left out: all whose handlers can't be async."
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower", plot=True),
        Metric("rate", "requests/s", 0, "higher"),
    )
    reference = OURS

    def cases(self, quick: bool) -> Sequence[str]:
        return ECHO, SLEEP

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return OURS, FASTSTREAM, AIO_PIKA

    def rounds_of(self, case: str, row: str, quick: bool) -> int:
        # It takes long, and nobody scatters there.
        most = super().rounds_of(case, row, quick)
        return min(most, 2 if row == OURS else 1) if case == SLEEP else min(most, 2)

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        if case == ECHO:
            count = 3000 if quick else 20_000
            with lab.client() as client:
                lab.prepare(client, contender)
            bodies = lab.bodies(contender, count)
            return lab.drain(contender, bodies, count, _LIMIT_S, task="async")
        # Those that take longest are watched as long with fewer.
        count = _REQUESTS // (3 if quick else 1 if row == OURS else 2)
        several = _AT_A_TIME
        return lab.handle(contender, count, task="async 0.1", workers=several, prefetch=several)
