"""One run over all measurements that are still missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from .contenders import MAIN, OURS
from .environment import EnvironmentFailed
from .job import Job, Values
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
        if key in results:
            continue  # measured together with one before
        job = by_number[key[0]]
        elapsed = time.monotonic() - began
        left = f", {elapsed / done * (len(todo) - done) / 60:.0f} min left" if done > 5 else ""
        head = f"[{whole - len(todo) + done + 1}/{whole}{left}] {job.slug}"
        if why := _missing(lab, job, key):
            results.add(key, {}, why)
            say(f"{_named(head, key)}: left out")
            continue
        lab.revive()
        group = [each for each in together(job, key, plan) if not _missing(lab, job, each)]
        try:
            found = _measure(lab, job, group, quick)
        except Exception as error:  # one that fails is a row with a remark
            text = f"{type(error).__name__}: {error}".replace(str(lab.folder), "…")
            state = f"failed: {text[:200]}"
            if isinstance(error, EnvironmentFailed):
                text, state = str(error), f"left out: {error}"
            for each in group:
                results.add(each, {}, text)
                say(f"{_named(head, each)}: {state}")
            continue
        for each, values in found.items():
            results.add(each, values)
            shown = ", ".join(
                f"{metric.title} {values[metric.key]:.{metric.digits}f}"
                for metric in job.metrics
                if metric.key in values
            )
            say(f"{_named(head, each)}, round {each[3] + 1}: {shown}")


def together(job: Job, key: Key, plan: Iterable[Key]) -> list[Key]:
    """All of the plan that is measured in one go with this one, all rounds of it."""
    _, case, row, _ = key
    word = job.together(case, row)
    if not word:
        return [key]
    return [each for each in plan if each[0] == job.number and job.together(*each[1:3]) == word]


def _missing(lab: Lab, job: Job, key: Key) -> str:
    """Why what it needs isn't there; empty if all is."""
    return next((lab.missing[peer] for peer in job.needs(key[2]) if peer in lab.missing), "")


def _measure(lab: Lab, job: Job, group: Sequence[Key], quick: bool) -> dict[Key, Values]:
    _, case, row, _ = group[0]
    if not job.together(case, row):
        return {group[0]: job.measure(lab, case, row, quick)}
    places = list(dict.fromkeys(key[1:3] for key in group))
    rounds = sorted({key[3] for key in group})
    found = job.measure_together(lab, places, len(rounds), quick)
    return {
        (job.number, *place, turn): values
        for place in places
        for turn, values in zip(rounds, found[place], strict=True)
    }


def _named(head: str, key: Key) -> str:
    _, case, row, _ = key
    return f"{head}{f' ({case})' if case else ''}, {row}"
