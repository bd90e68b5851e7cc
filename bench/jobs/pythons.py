"""Job 17: the reference job on other Pythons."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import pythons
from ..contenders import BY_NAME, OURS
from ..job import Job, Metric, Values
from ..lab import Lab
from ..results import Results
from ..service import environment

#: Those that the service supports, and builds of which the threads are free.
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.13t", "3.14t")
#: Requests, and seconds after which enough is seen.
COUNT, LIMIT_S = 20_000, 1.5


class Pythons(Job):
    number = 17
    slug = "pythons"
    title = "Other Pythons"
    text = (
        "The reference job, the service on other versions of Python, with the same pika, broker and client. "
        "A version's image is unpacked, and its Python runs as any other process; where there is no image, it "
        "is one that the machine has. What ends in a t is a build of which the threads are free. How a Python "
        "was built counts as much as its version: the images are built with profile-guided optimisation."
    )
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower", plot=True),
        Metric("rate", "requests/s", 0, "higher"),
        Metric("idle_mb", "MB idle", 1, "lower"),
        Metric("consuming_s", "s to consuming", 3, "lower"),
    )
    reference = OURS

    def __init__(self) -> None:
        self._compiled: set[str] = set()

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else ("",)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS, *VERSIONS)

    def rounds_of(self, case: str, row: str, quick: bool) -> int:
        return 1 if row.endswith("t") else self.rounds(case, quick)

    def label(self, row: str) -> str:
        return "the Python of all other tables" if row == OURS else f"Python {row}"

    def peer(self, row: str) -> str | None:
        return super().peer(OURS)

    def reason(self, case: str, first: str) -> str:
        return "the version, and how it was built; see below."

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        python = pythons.own() if row == OURS else pythons.find(row)
        source, site = lab.service.source(), lab.environment("service").site
        env = {**python.env, "PYTHONPATH": f"{source}:{site}"}
        if row not in self._compiled:
            # As an installation does; what it makes is for one version.
            subprocess.run(
                [*python.command, "-m", "compileall", "-q", str(source), str(site)],
                env={**environment(0), **env},
                capture_output=True,
                timeout=120,
            )
            self._compiled.add(row)
        contender = BY_NAME[OURS]
        with lab.client() as client:
            lab.prepare(client, contender)
        bodies = lab.bodies(contender, COUNT)
        program = python.command
        values = lab.drain(contender, bodies, COUNT, LIMIT_S, env=env, program=program)
        return {**values, f"is;{python.text}": 1.0}

    def own(self, results: Results, folder: Path) -> Iterator[str]:
        """Which Python each row is."""
        found = []
        for row in self.rows("", False):
            for name in results.names(self.number, "", row):
                if name.startswith("is;"):
                    found.append(f"- {self.label(row)}: {name.partition(';')[2]}")
        if found:
            yield from found
            yield ""
