"""Jobs 15 and 16: one worker or many, in one process or in several."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..contenders import BY_NAME, OURS
from ..job import Job, Metric, Place, Values
from ..lab import AFTERWARDS, REPLIES, START, Lab
from ..results import Results
from ..service import QUEUE
from ..turns import Party, take_rounds

ONE = "1 worker"
WORKERS = {ONE: 1, "4 workers": 4, "16 workers": 16, "64 workers": 64, "256 workers": 256}
#: Requests of a turn, turns of a round, and rounds.
REQUESTS, TURNS, ROUNDS = 4000, 3, 3
#: What a handler does, and how many requests; where it waits, how many for each worker.
TASKS = {
    "an echo": ("echo", 16_000),
    "1 ms of computing": ("spin 0.001", 1_200),
    "10 ms of waiting": ("sleep 0.01", 80),
}
ALONE = "1 process, 1 worker"
#: Processes, and workers of each.
SETTINGS = {
    ALONE: (1, 1),
    "1 process, 2 workers": (1, 2),
    "1 process, 4 workers": (1, 4),
    "2 processes, 1 worker each": (2, 1),
    "4 processes, 1 worker each": (4, 1),
}
#: Requests that each worker has before, for which it isn't watched.
_WARM = 10


class Workers(Job):
    number = 15
    slug = "workers"
    title = "Growth: more workers"
    text = (
        "The reference job with 1 to 256 workers (`MQ_WORKERS`), each a thread. Flat is good. The handler "
        "is an echo, so there is nothing that workers could do at the same time: what grows is what "
        "threads cost each other. The five services run all the time and take turns, "
        f"{ROUNDS * TURNS} of {REQUESTS} requests each, the others frozen meanwhile; a round is the median of "
        f"{TURNS} turns. The ratio is that to one worker."
    )
    matrix = True
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower"),
        Metric("rate", "requests/s", 0, "higher"),
        Metric("peak_mb", "MB at most", 1, "lower"),
        Metric("consuming_s", "s to consuming", 2, "lower"),
    )
    reference = None
    since = ONE

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else tuple(WORKERS)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS,)

    def rounds(self, case: str, quick: bool) -> int:
        return ROUNDS

    def together(self, case: str, row: str) -> str:
        return self.slug

    def measure_together(
        self, lab: Lab, those: Sequence[Place], rounds: int, quick: bool
    ) -> Mapping[Place, Sequence[Values]]:
        parties = {
            (case, row): Party(
                f"workers-{WORKERS[case]}", BY_NAME[row], REQUESTS, workers=WORKERS[case]
            )
            for case, row in those
        }
        return take_rounds(lab, parties, rounds, TURNS)


class Processes(Job):
    number = 16
    slug = "processes"
    title = "Another worker, or another process"
    text = (
        "One service on one machine: more workers in its process, or more processes of it (`docker compose "
        "up --scale`), with a handler that echoes, one that computes, and one that waits. CPU and memory are "
        "those of all processes. They share the cores with the broker and the client."
    )
    metrics = (
        Metric("rate", "requests/s", 0, "higher"),
        Metric("cpu_us", "CPU µs per request", 1, "lower"),
        Metric("peak_mb", "MB at most", 0, "lower"),
    )
    reference = ALONE

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else tuple(TASKS)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return tuple(SETTINGS)

    def rounds(self, case: str, quick: bool) -> int:
        return 1

    def label(self, row: str) -> str:
        return row

    def peer(self, row: str) -> str | None:
        return super().peer(OURS)

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        (task, count), (processes, workers) = TASKS[case], SETTINGS[row]
        if task.startswith("sleep"):
            count *= processes * workers
        return measure(lab, task, processes, workers, count)

    def own(self, results: Results, folder: Path) -> Iterator[str]:
        """Where the next process beats the next worker, as measured."""
        found = list(self._verdicts(results))
        if found:
            yield "So, of two or of four of them on this machine:"
            yield ""
            yield from found
            yield ""

    def _verdicts(self, results: Results) -> Iterator[str]:
        for case in TASKS:
            words = []
            for number in (2, 4):
                more = results.spread(self.number, case, f"1 process, {number} workers", "rate")
                other = f"{number} processes, 1 worker each"
                spread = results.spread(self.number, case, other, "rate")
                if more and spread:
                    words.append(
                        f"{number} processes handle {spread.median / more.median:.2f} times "
                        f"what {number} workers do"
                    )
            if words:
                yield f"- {case}: {'; '.join(words)}."


def measure(lab: Lab, task: str, processes: int, workers: int, count: int) -> Values:
    """Have services that run already handle requests that lie ready, to the last reply."""
    contender = BY_NAME[OURS]
    with lab.client() as client, lab.client() as reader, ExitStack() as stack:
        lab.prepare(client, contender)
        reader.consume(REPLIES)
        running = [
            stack.enter_context(lab.start(contender, task=task, workers=workers, log=f"{OURS}-{n}"))
            for n in range(processes)
        ]
        started = client.wait_for_consumers(QUEUE, processes, START) - running[0].began
        warm = _WARM * processes * workers
        client.fill(QUEUE, lab.bodies(contender, warm), consumed=True)
        if reader.count_replies(warm, time.monotonic() + START) < warm:
            raise TimeoutError(f"{reader.replies} of {warm} replies after {START:.0f} s")
        time.sleep(AFTERWARDS)
        for process in running:
            process.freeze()
        client.fill(QUEUE, lab.bodies(contender, count), consumed=True)
        before, began = sum(process.cpu() for process in running), time.monotonic()
        for process in running:
            process.thaw()
        wanted = warm + count
        if reader.count_replies(wanted, began + START) < wanted:
            for process in running:
                process.check()
            raise TimeoutError(f"{reader.replies - warm} of {count} replies after {START:.0f} s")
        seconds = time.monotonic() - began
        time.sleep(AFTERWARDS)
        used = sum(process.cpu() for process in running) - before
        peak = sum(process.peak() for process in running)
    return {
        "cpu_us": used / count * 1e6,
        "rate": count / seconds,
        "peak_mb": peak,
        "consuming_s": started,
    }
