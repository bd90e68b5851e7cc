"""Job 3: requests of different sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contenders import BY_NAME, GO, OURS, RAW, WIDE, C, Contender
from ..job import COMPILED, Job, Metric, Place, Values
from ..lab import TEXT, Lab, request
from ..turns import Party, take_rounds

#: Characters of text that make a body of that size, and how many such requests; of the smaller ones in a turn.
SIZES = {
    "250 B": (len(TEXT), 4_000),
    "4 KiB": (2_920, 1_600),
    "64 KiB": (49_000, 1_200),
    "1 MiB": (786_300, 80),
}
#: The size at which all are measured.
ALL = "64 KiB"
#: Where those that are compared take turns, as they differ by less than two runs of one of them; turns of a
#: round, and rounds.
SMALL, TURNS, ROUNDS = ("250 B", "4 KiB"), 3, 3
#: Seconds after which enough is seen.
LIMIT_S = 1.0


class Bodies(Job):
    number = 3
    slug = "bodies"
    title = "Bodies of 250 B to 1 MiB"
    text = (
        "The reference job with longer texts; the reply is as long as the request. "
        "The bare loop is there twice: as pika has it, reading 4 KiB at a time, and reading 64 KiB. "
        f"At {' and '.join(SMALL)} all run all the time and take turns, {ROUNDS * TURNS} each, the others frozen "
        f"meanwhile; a round is the median of {TURNS} turns. Otherwise a contender that isn't done after {LIMIT_S:g} s is "
        "measured by what it has done until then."
    )
    left_out = f"All are measured at {ALL}; at the other sizes those that ratios are taken of."
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower", plot=True),
        Metric("byte_ns", "CPU ns per byte", 2, "lower"),
        Metric("rate", "requests/s", 0, "higher"),
    )
    peer_rounds = 1

    def cases(self, quick: bool) -> Sequence[str]:
        return ("64 KiB",) if quick else tuple(SIZES)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        few = (OURS, RAW, WIDE)
        if quick:
            return few
        peers: Sequence[str] = () if case == "1 MiB" else (C, GO)
        if case == ALL:
            peers = tuple(BY_NAME)
        return (*few, *(name for name in peers if name not in few))

    def rounds(self, case: str, quick: bool) -> int:
        return 1 if quick else 5 if case == ALL else ROUNDS if case in SMALL else 2

    def rounds_of(self, case: str, row: str, quick: bool) -> int:
        # A ratio to the bare loop scatters here by a quarter from round to round.
        most = super().rounds_of(case, row, quick)
        return min(most, 3) if row in (C, GO) else most

    def reason(self, case: str, first: str) -> str:
        return COMPILED if first in BY_NAME and BY_NAME[first].compiled else ""

    def label(self, row: str) -> str:
        return "the bare loop, reading 64 KiB at a time" if row == WIDE else super().label(row)

    def peer(self, row: str) -> str | None:
        return super().peer(RAW if row == WIDE else row)

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender, env = _who(row)
        text, count = _text(case), SIZES[case][1]
        count = count // 2 if quick else count
        with lab.client() as client:
            lab.prepare(client, contender)
        bodies = list(lab.bodies(contender, count, text))
        values = lab.drain(contender, bodies, count, LIMIT_S, env=env)
        return {**values, "byte_ns": values["cpu_us"] * 1e3 / len(bodies[0])}

    def together(self, case: str, row: str) -> str:
        return case if case in SMALL else ""

    def measure_together(
        self, lab: Lab, those: Sequence[Place], rounds: int, quick: bool
    ) -> Mapping[Place, Sequence[Values]]:
        parties = {}
        for case, row in those:
            contender, env = _who(row)
            parties[case, row] = Party(row, contender, SIZES[case][1], env=env, text=_text(case))
        found = take_rounds(lab, parties, rounds, TURNS)
        for place, party in parties.items():
            size = len(request(party.contender, 0, party.text)[1])
            for values in found[place]:
                values["byte_ns"] = values["cpu_us"] * 1e3 / size
        return found


def _who(row: str) -> tuple[Contender, dict[str, str]]:
    """The contender of a row, and the variables that it is started with."""
    wide = {"BENCH_RECEIVE": str(1 << 16)}
    return (BY_NAME[RAW], wide) if row == WIDE else (BY_NAME[row], {})


def _text(case: str) -> str:
    length = SIZES[case][0]
    return ((TEXT + " ") * (length // len(TEXT)) + TEXT[: length % len(TEXT)])[:length]
