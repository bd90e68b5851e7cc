"""Job 10: handlers that publish an event for each request, confirmed before the request is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from ..contenders import BLOCKING, BY_NAME, OURS
from ..job import Job, Metric, Values
from ..lab import Lab
from ..service import EVENTS

#: Requests, and seconds after which enough is seen.
COUNT, LIMIT_S = 12_000, 3.0


class Events(Job):
    number = 10
    slug = "events"
    title = "An event for each request, confirmed"
    text = (
        "The reference job, whose handler also publishes the request to a named exchange (a fanout with "
        "one queue), and whose request may only be acknowledged when the broker has confirmed that. The "
        "generated service does so by itself for all that a handler publishes to a named exchange. The "
        "other does what pika's documentation has for it: `confirm_delivery()`, after which each publish "
        "waits for its confirm; its replies go over another channel, without. A contender that isn't done after "
        f"{LIMIT_S:g} s is measured by what it has done until then."
    )
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower", plot=True),
        Metric("rate", "requests/s", 0, "higher", plot=True),
    )
    reference = BLOCKING

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else ("",)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS, BLOCKING)

    def label(self, row: str) -> str:
        label = super().label(row)
        return f"{label}, with confirms" if row == BLOCKING else label

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        with lab.client() as client:
            lab.prepare(client, contender)
            client.delete(EVENTS)
            # What nobody takes away; the oldest goes, so that it doesn't grow.
            client.declare(EVENTS, arguments={"x-max-length": 1000})
            client.bind(EVENTS, EVENTS)
        bodies = lab.bodies(contender, COUNT)
        return lab.drain(contender, bodies, COUNT, LIMIT_S, task="event")
