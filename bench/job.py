"""What a job is: cases, the rows of its tables, and a measurement for each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .contenders import BY_NAME, MAIN, RAW
from .lab import Lab
from .results import Results

Values = Mapping[str, float]
#: A case and a row.
Place = tuple[str, str]


#: Why a compiled peer is first where it is.
COMPILED = "a compiled program interprets nothing while it decodes, encodes and frames."


@dataclass(frozen=True)
class Metric:
    """One column."""

    key: str
    title: str
    #: Digits behind the point.
    digits: int = 0
    better: Literal["lower", "higher", ""] = ""
    #: Whether it has a plot.
    plot: bool = False


class Job(ABC):
    """Something that all rows are measured at."""

    number: int
    slug: str
    title: str
    #: What is measured and how, for the report.
    text: str
    #: Who is not measured at this, and why; for the report.
    left_out: str = ""
    #: The first one decides the order of the rows, and ratios are of it.
    metrics: Sequence[Metric]
    #: Row that the others are divided by, within each round; None for no ratios.
    reference: str | None = RAW
    #: Case that the others are divided by instead, where one table holds all cases.
    since: str | None = None
    #: One table for all cases, a line for each, instead of one table for each.
    matrix = False
    #: Rows that show a bound and are no contenders.
    bounds: Sequence[str] = ()
    #: How often those are measured that aren't among the main contenders; None for as often.
    peer_rounds: int | None = None

    @abstractmethod
    def cases(self, quick: bool) -> Sequence[str]:
        """Names of the tables."""

    @abstractmethod
    def rows(self, case: str, quick: bool) -> Sequence[str]:
        """Who is measured."""

    def rounds(self, case: str, quick: bool) -> int:
        """How often, each time all rows in turn."""
        return 1 if quick else 3

    def rounds_of(self, case: str, row: str, quick: bool) -> int:
        """How often a row is measured."""
        most = self.rounds(case, quick)
        return most if row in MAIN or self.peer_rounds is None else min(most, self.peer_rounds)

    def reason(self, case: str, first: str) -> str:
        """Why the generated service isn't first, where that is known.

        :param first: the row that is
        """
        return ""

    def label(self, row: str) -> str:
        """A row's name in the report."""
        return BY_NAME[row].label

    def peer(self, row: str) -> str | None:
        """Environment that a row needs."""
        return BY_NAME[row].peer

    def needs(self, row: str) -> Sequence[str]:
        """All environments that a row needs."""
        peer = self.peer(row)
        return (peer,) if peer else ()

    def together(self, case: str, row: str) -> str:
        """A name for the rows that are measured in turns with this one, all rounds at once: the same for all of
        them, and they have the same number of rounds. Empty for a row that is measured by itself.
        """
        return ""

    def measure_together(
        self, lab: Lab, those: Sequence[Place], rounds: int, quick: bool
    ) -> Mapping[Place, Sequence[Values]]:
        """Measure all that are `together`; an exception becomes the remark of each.

        A job has its own of this or of `measure`, or of both.

        :returns: for each of them what each round gave
        """
        return {place: [self.measure(lab, *place, quick) for _ in range(rounds)] for place in those}

    def own(self, results: Results, folder: Path) -> Iterator[str]:
        """What the report says behind the tables that isn't a table of rows.

        :param folder: for pictures, which are linked by its name
        """
        return iter(())

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        """Measure once; an exception becomes the row's remark in the report."""
        [values] = self.measure_together(lab, [(case, row)], 1, quick)[case, row]
        return values
