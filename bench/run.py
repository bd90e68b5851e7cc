"""One run over all measurements that are still missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from .contenders import MAIN, OURS
from .environment import EnvironmentFailed
from .job import Job
from .lab import Lab
from .results import Key, Results


def say(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)


def turned(rows: Sequence[str], pair: Sequence[str], number: int) -> list[str]:
    """The rows in the order of a round: each round begins with another one.

    :param pair: those whose ratio matters stay side by side, so that both see the machine alike, and
        change places from round to round
    """
    together = [row for row in rows if row in pair]
    if number % 2:
        together.reverse()
    units = [together, *([row] for row in rows if row not in pair)]
    start = number % len(units)
    return [row for unit in units[start:] + units[:start] for row in unit]


def keys(job: Job, quick: bool) -> Iterator[Key]:
    """A job's measurements, all rows in turn within a round."""
    most = max((job.rounds(case, quick) for case in job.cases(quick)), default=0)
    for number in range(most):
        for case in job.cases(quick):
            if number < job.rounds(case, quick):
                wanted = [
                    row for row in job.rows(case, quick) if number < job.rounds_of(case, row, quick)
                ]
                rows = turned(wanted, (*MAIN, job.reference or OURS), number)
                yield from ((job.number, case, row, number) for row in rows)


def make_environments(lab: Lab, jobs: Iterable[Job], plan: Iterable[Key]) -> None:
    """Install what the plan needs; a peer that can't be installed is left out, with its reason."""
    by_number = {job.number: job for job in jobs}
    peers: dict[str, None] = {"service": None}
    for number, _, row, _ in plan:
        peers |= dict.fromkeys(by_number[number].needs(row))
    for peer in peers:
        environment = lab.environment(peer)
        if not environment.ready:
            began = time.monotonic()
            say(f"[bench] installing {peer}")
            try:
                environment.make()
            except EnvironmentFailed as error:
                lab.missing[peer] = str(error)
                say(f"[bench] {peer} can't be installed: {error}")
            else:
                say(f"[bench] installed {peer} in {time.monotonic() - began:.0f} s")


def measure(
    lab: Lab, jobs: Sequence[Job], plan: Sequence[Key], results: Results, quick: bool
) -> None:
    """Measure what is missing of the plan, one line for each."""
    by_number = {job.number: job for job in jobs}
    todo = [key for key in plan if key not in results]
    whole = len(plan)
    if len(todo) < whole:
        say(
            f"[bench] {whole - len(todo)} of {whole} measurements are there already; --fresh begins anew"
        )
    began = time.monotonic()
    for done, key in enumerate(todo):
        number, case, row, turn = key
        job = by_number[number]
        elapsed = time.monotonic() - began
        left = f", {elapsed / done * (len(todo) - done) / 60:.0f} min left" if done > 5 else ""
        head = f"[{whole - len(todo) + done + 1}/{whole}{left}] {job.slug}{f' ({case})' if case else ''}"
        missing = [lab.missing[peer] for peer in job.needs(row) if peer in lab.missing]
        if missing:
            results.add(key, {}, missing[0])
            say(f"{head}, {row}: left out")
            continue
        lab.revive()
        try:
            values = job.measure(lab, case, row, quick)
        except EnvironmentFailed as error:
            results.add(key, {}, str(error))
            say(f"{head}, {row}: left out: {error}")
            continue
        except Exception as error:  # one that fails is a row with a remark
            text = f"{type(error).__name__}: {error}".replace(str(lab.folder), "…")
            results.add(key, {}, text)
            say(f"{head}, {row}: failed: {text[:200]}")
            continue
        results.add(key, values)
        shown = ", ".join(
            f"{metric.title} {values[metric.key]:.{metric.digits}f}"
            for metric in job.metrics
            if metric.key in values
        )
        say(f"{head}, {row}, round {turn + 1}: {shown}")
