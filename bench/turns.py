"""Processes that take turns, for what differs by less than two runs of the same do.

Each has a queue of its own and has started before. Its turn is a reference job in small: frozen, its queue is
filled; it goes on until the last reply is there, and is frozen again. Those that are compared have their turns
within a second or two, again and again, so what else the machine does meets them all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from .contenders import Contender
from .job import Place
from .lab import AFTERWARDS, REPLIES, SETTLED, START, TEXT, Lab
from .process import Process
from .service import QUEUE
from .wire import Client

#: Requests that each queue has before, at most; fewer than what is in hand at most, so that nobody waits long.
WARM = 50


@dataclass(frozen=True)
class Party:
    """One or several processes of a kind, whose turn it is together.

    :param name: names its queues
    :param requests: of a turn, all its queues and processes together
    """

    name: str
    contender: Contender
    requests: int
    task: str = "echo"
    workers: int = 1
    consumers: int = 1
    replicas: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    #: Requests that each queue has before.
    warm: int = WARM
    #: Of each request.
    text: str = TEXT

    @property
    def queues(self) -> list[str]:
        """What each of its processes consumes."""
        first = f"{QUEUE}.{self.name}"
        return [first, *(f"{first}.{number}" for number in range(1, self.consumers))]


@dataclass
class Taken:
    """What was measured in a party's turns."""

    #: Processor time for each request, in µs, and requests a second, by turn.
    cpu_us: list[float]
    rate: list[float]
    #: Seconds until all its consumers were there; MB of all its processes after that, and at most.
    consuming_s: float
    idle_mb: float
    peak_mb: float = 0.0
    #: Where each process writes how many requests it has handled, if its handler counts them.
    counts: list[Path] = field(default_factory=list)

    def rounds(self, number: int) -> list[dict[str, float]]:
        """The columns of a table for each round: medians of its share of the turns.

        :param number: of rounds
        """
        turns = len(self.cpu_us) // number
        return [
            {
                "cpu_us": statistics.median(self.cpu_us[start : start + turns]),
                "rate": statistics.median(self.rate[start : start + turns]),
                "consuming_s": self.consuming_s,
                "idle_mb": self.idle_mb,
                "peak_mb": self.peak_mb,
            }
            for start in range(0, turns * number, turns)
        ]


def take_rounds(
    lab: Lab, parties: Mapping[Place, Party], rounds: int, turns: int = 1
) -> dict[Place, list[dict[str, float]]]:
    """Measure parties in turns; the columns of each round, by the parties' places in a table.

    :param turns: of each party, in a round
    """
    taken = take_turns(lab, list(parties.values()), rounds * turns)
    return {place: taken[party.name].rounds(rounds) for place, party in parties.items()}


def take_turns(lab: Lab, parties: Sequence[Party], turns: int) -> dict[str, Taken]:
    """Give each party that many turns, in an order that changes; what was measured, by the parties' names."""
    with lab.client() as client, lab.client() as reader, ExitStack() as stack:
        lab.replies(client)
        reader.consume(REPLIES)
        running, taken = _prepare(lab, client, reader, parties, stack)
        for number in range(turns):
            start = number // 2 % len(parties)
            order = [*parties[start:], *parties[:start]]
            for party in order if number % 2 else order[::-1]:
                _turn(lab, client, reader, party, running[party.name], taken[party.name])
        for party in parties:
            taken[party.name].peak_mb = sum(each.peak() for each in running[party.name])
    return taken


def take_turns_within(lab: Lab, party: Party, turns: int) -> list[Taken]:
    """Give each queue of one process that many turns, pair by pair; in the party's order of queues."""
    parts = [
        replace(party, name=f"{party.name}.{number}" if number else party.name, consumers=1)
        for number in range(party.consumers)
    ]
    with lab.client() as client, lab.client() as reader, ExitStack() as stack:
        lab.replies(client)
        reader.consume(REPLIES)
        running, begun = _prepare(lab, client, reader, [party], stack)
        processes, started = running[party.name], begun[party.name]
        taken = [replace(started, cpu_us=[], rate=[]) for _ in parts]
        for number in range(turns):
            order = [*zip(parts, taken, strict=True)]
            for part, its in order if number % 2 else order[::-1]:
                _turn(lab, client, reader, part, processes, its)
    return taken


def _prepare(
    lab: Lab, client: Client, reader: Client, parties: Sequence[Party], stack: ExitStack
) -> tuple[dict[str, list[Process]], dict[str, Taken]]:
    """Start them all, have each of their queues warm, and freeze them."""
    running: dict[str, list[Process]] = {}
    taken: dict[str, Taken] = {}
    for party in parties:
        for queue in party.queues:
            client.delete(queue)
            lab.declare(client, queue, party.contender, False)
            stack.callback(_delete, lab, queue)
        running[party.name], taken[party.name] = _start(lab, client, party, stack)
    for party in parties:  # All at once, as whoever has nothing to do is in nobody's way.
        for queue in party.queues:
            client.fill(queue, lab.bodies(party.contender, party.warm), consumed=True)
    _wait(reader, sum(party.warm * party.consumers for party in parties), running)
    time.sleep(SETTLED)
    for process in _all(running):
        process.freeze()
    return running, taken


def _start(lab: Lab, client: Client, party: Party, stack: ExitStack) -> tuple[list[Process], Taken]:
    """Its processes, with a consumer each for each of its queues."""
    counts = [lab.folder / f"count-{party.name}-{number}" for number in range(party.replicas)]
    for file in counts:
        file.unlink(missing_ok=True)
    processes = [
        stack.enter_context(
            lab.start(
                party.contender,
                task=party.task,
                workers=party.workers,
                consumers=party.consumers,
                queue=party.queues[0],
                env={**party.env, "BENCH_COUNT": str(file)},
                log=file.name,
            )
        )
        for file in counts
    ]
    for queue in party.queues:
        ready = client.wait_for_consumers(queue, party.replicas, START)
    idle = sum(process.resident() for process in processes)
    return processes, Taken([], [], ready - processes[0].began, idle, counts=counts)


def _turn(
    lab: Lab,
    client: Client,
    reader: Client,
    party: Party,
    processes: Sequence[Process],
    taken: Taken,
) -> None:
    each = party.requests // party.consumers
    for queue in party.queues:
        client.fill(queue, lab.bodies(party.contender, each, party.text), consumed=True)
    count = each * party.consumers
    before, began = sum(process.cpu() for process in processes), time.monotonic()
    # The one that goes on first gets the most, which is to be another one each time.
    first = len(taken.rate) % len(processes)
    for process in (*processes[first:], *processes[:first]):
        process.thaw()
    _wait(reader, reader.replies + count, {party.name: processes})
    seconds = time.monotonic() - began
    time.sleep(AFTERWARDS)
    for process in processes:
        process.freeze()
    used = sum(process.cpu() for process in processes) - before
    taken.cpu_us.append(used / count * 1e6)
    taken.rate.append(count / seconds)


def _wait(reader: Client, wanted: int, running: Mapping[str, Sequence[Process]]) -> None:
    """Until so many replies are there.

    :raises TimeoutError: they aren't in time
    """
    if reader.count_replies(wanted, time.monotonic() + START) < wanted:
        for process in _all(running):
            process.check()
        raise TimeoutError(f"{wanted - reader.replies} requests without a reply")


def _all(running: Mapping[str, Sequence[Process]]) -> Iterator[Process]:
    for processes in running.values():
        yield from processes


def _delete(lab: Lab, queue: str) -> None:
    with lab.client() as client:
        client.delete(queue)
