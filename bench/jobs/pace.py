"""Job 11: how many messages to have in hand, found out by the service itself, beside a fixed number."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..contenders import BY_NAME, OURS
from ..job import Job, Metric, Place, Values
from ..lab import AFTERWARDS, PREFETCH, REPLIES, START, Lab
from ..process import Process
from ..service import QUEUE
from ..turns import Party, take_turns
from ..wire import Client

FIXED = "fixed"
#: Seconds that the handler waits, workers of a replica, replicas.
CASES = {
    f"{round(seconds * 1000)} ms, {workers} {'worker' if workers == 1 else 'workers'}, "
    f"{replicas} {'replica' if replicas == 1 else 'replicas'}": (seconds, workers, replicas)
    for seconds in (0.0, 0.001, 0.01, 0.1)
    for workers in (1, 4)
    for replicas in (1, 4)
}
#: Handlers that count as quick: what is in hand decides how fast they are.
QUICK = tuple(case for case, (seconds, _, _) in CASES.items() if seconds <= 0.001)
SLOW = tuple(case for case in CASES if case not in QUICK)
SEVERAL = tuple(case for case, (_, _, replicas) in CASES.items() if replicas > 1)
#: Seconds of work that a replica is to have in hand at most, where that is more than two for each worker.
IN_HAND = 0.2
#: Seconds that the slow ones are meant to take, who are asked how much they have in hand, by replicas: a share
#: of 0.1 s that one handles more or less is to be no tenth.
SECONDS = {1: 1.5, 4: 2.7}
#: Requests of a turn of a handler that doesn't wait, for each replica, by replicas: so many that it's not the
#: scheduler's first slices that decide who gets how many. Of one that waits, for each second and worker;
#: seconds of its turn, by replicas: where shares are counted it takes long, since the 0.2 s of work that each
#: may have in hand at the end of a turn count as well.
COUNT, SECOND, LENGTH = {1: 5000, 4: 16_000}, 850, {1: 0.5, 4: 4.0}
#: Rounds by replicas.
ROUNDS = {1: 4, 4: 2}
#: Requests that a replica has before, at most.
WARM = 50
#: Seconds between two looks at what is in hand.
_STEP = 0.03
#: Seconds that a reply takes through the broker, and more.
_MOMENT = 0.01


class Pace(Job):
    number = 11
    slug = "pace"
    title = "Messages in hand: found out, or fixed"
    text = (
        "The reference job with a handler that waits (`time.sleep`) for 0 to 100 ms, with one and four "
        "workers, in one and four replicas of the service. As it comes, the service measures how long its "
        f"handler takes and has at most as much in hand as it handles in {IN_HAND:g} s, between twice the "
        f"workers and {PREFETCH}, after the first requests; beside it `MQ_PREFETCH={PREFETCH}` fixes the number. What is in hand is "
        "what has left the queue and has no reply yet, of one replica on average, at the most of a look "
        f"every {_STEP * 1000:.0f} ms; of quick handlers, where most of that would be on its way through "
        "the broker, it isn't counted. Up to 1 ms both run all the time and take turns, the other frozen "
        "meanwhile, as more than two runs of the same differ by is of interest there: turns of "
        f"{COUNT[1]} requests or of {LENGTH[1]:g} s, with four replicas of {COUNT[4]} for each or of "
        f"{LENGTH[4]:g} s. "
        "Shares are of all requests that a replica has answered: the largest less the smallest, over the mean. "
        "CPU is that of all replicas."
    )
    matrix = True
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower"),
        Metric("rate", "requests/s", 0, "higher"),
        Metric("in_hand", "messages in hand", 0, "lower"),
        Metric("work_s", "s of work in hand", 2, "lower"),
        Metric("share_percent", "% between shares", 0, "lower"),
    )
    reference = FIXED

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else tuple(CASES)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS, FIXED)

    def rounds(self, case: str, quick: bool) -> int:
        return ROUNDS[CASES[case][2]] if case in QUICK else 1

    def together(self, case: str, row: str) -> str:
        return case if case in QUICK else ""

    def label(self, row: str) -> str:
        return "found out" if row == OURS else f"fixed {PREFETCH}"

    def peer(self, row: str) -> str | None:
        return super().peer(OURS)

    def measure_together(
        self, lab: Lab, those: Sequence[Place], rounds: int, quick: bool
    ) -> Mapping[Place, Sequence[Values]]:
        parties = [_party(case, row) for case, row in those]
        taken = take_turns(lab, parties, rounds)
        found: dict[Place, Sequence[Values]] = {}
        for place, party in zip(those, parties, strict=True):
            shown = taken[party.name].rounds(rounds)
            if party.replicas > 1:
                for values in shown:  # A process says it at its end, of all rounds.
                    values["share_percent"] = _shares(taken[party.name].counts)
            found[place] = shown
        return found

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[OURS]
        seconds, workers, replicas = CASES[case]
        count = round(SECONDS[replicas] * workers / seconds) * replicas
        env = _env(row)
        counts = [lab.folder / f"count-{number}" for number in range(replicas)]
        for file in counts:
            file.unlink(missing_ok=True)
        with lab.client() as client, lab.client() as reader, ExitStack() as stack:
            lab.prepare(client, contender)
            reader.consume(REPLIES)
            processes = [
                stack.enter_context(
                    lab.start(
                        contender,
                        task=_task(seconds),
                        workers=workers,
                        env={**env, "BENCH_COUNT": str(file)},
                        log=file.name,
                    )
                )
                for file in counts
            ]
            client.wait_for_consumers(QUEUE, replicas, START)
            # Nobody takes more than one message before the first is handled.
            first = replicas * max(2 * workers, round(min(WARM, IN_HAND / seconds)))
            client.fill(QUEUE, lab.bodies(contender, first), consumed=True)
            watch(client, reader, processes, first, time.monotonic())
            time.sleep(AFTERWARDS)
            reader.replies = 0
            for process in processes:
                process.freeze()
            client.fill(QUEUE, lab.bodies(contender, count), consumed=True)
            before = sum(process.cpu() for process in processes)
            began = time.monotonic()
            for process in processes:
                process.thaw()
            in_hand, took = watch(client, reader, processes, count, began)
            time.sleep(AFTERWARDS)
            used = sum(process.cpu() for process in processes) - before
        most = in_hand / replicas
        allowed = max(2 * workers, min(PREFETCH, IN_HAND * workers / seconds))
        values = {
            "cpu_us": used / count * 1e6,
            "rate": count / took,
            "in_hand": most,
            "in_hand_of_allowed": most / allowed,
            "work_s": most * seconds / workers,
        }
        if replicas > 1:
            values["share_percent"] = _shares(counts)
        return values


def _party(case: str, row: str) -> Party:
    """The parties that take turns at a case."""
    seconds, workers, replicas = CASES[case]
    one = round(SECOND * LENGTH[replicas]) * workers if seconds else COUNT[replicas]
    return Party(
        f"pace-{row}",
        BY_NAME[OURS],
        one * replicas,
        task=_task(seconds),
        workers=workers,
        replicas=replicas,
        env=_env(row),
        warm=WARM * replicas,
    )


def _task(seconds: float) -> str:
    return f"pace {seconds:g}"


def _env(row: str) -> dict[str, str]:
    return {"MQ_PREFETCH": str(PREFETCH)} if row == FIXED else {}


def _shares(counts: Sequence[Path]) -> float:
    """How far the counts of replicas that have ended differ, in percent of their mean."""
    shares = [int(file.read_text()) for file in counts]
    return (max(shares) - min(shares)) / (sum(shares) / len(shares)) * 100


def watch(
    client: Client, reader: Client, processes: Sequence[Process], count: int, began: float
) -> tuple[int, float]:
    """Take the replies; the most messages that were in hand, and the seconds to the last reply."""

    def in_hand() -> int:
        ready = client.declare(QUEUE, passive=True)[0]
        reader.count_replies(count, time.monotonic())  # those that came meanwhile
        return count - ready - reader.replies

    most = 0
    while reader.replies < count:
        reader.count_replies(count, time.monotonic() + _STEP)
        last = time.monotonic()
        if (seen := in_hand()) > most:
            # A reply may just be on its way; then there is less a moment later.
            reader.count_replies(count, time.monotonic() + _MOMENT)
            most = max(most, min(seen, in_hand()))
        if last > began + START:
            for process in processes:
                process.check()
            raise TimeoutError(f"{reader.replies} of {count} replies after {START:.0f} s")
    return most, last - began
