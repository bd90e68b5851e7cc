"""Job 3: requests of different sizes."""

from __future__ import annotations

from collections.abc import Sequence

from ..contenders import BY_NAME, GO, OURS, RAW, WIDE, C
from ..job import COMPILED, Job, Metric, Values
from ..lab import TEXT, Lab

#: Characters of text that make a body of that size, and how many such requests.
SIZES = {
    "250 B": (len(TEXT), 20_000),
    "4 KiB": (2_920, 8_000),
    "64 KiB": (49_000, 1_200),
    "1 MiB": (786_300, 80),
}
#: The size at which all are measured.
ALL = "64 KiB"
#: Seconds after which enough is seen.
LIMIT_S = 1.0


class Bodies(Job):
    number = 3
    slug = "bodies"
    title = "Bodies of 250 B to 1 MiB"
    text = (
        "The reference job with longer texts; the reply is as long as the request. "
        "The bare loop is there twice: as pika has it, reading 4 KiB at a time, and reading 64 KiB. "
        f"Whoever isn't done after {LIMIT_S:g} s is measured by what it has done until then."
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
        return 1 if quick else 5 if case == ALL else 2

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
        contender = BY_NAME[RAW if row == WIDE else row]
        env = {"BENCH_RECEIVE": str(1 << 16)} if row == WIDE else {}
        length, count = SIZES[case]
        count = count // 2 if quick else count
        text = (TEXT + " ") * (length // len(TEXT)) + TEXT[: length % len(TEXT)]
        with lab.client() as client:
            lab.prepare(client, contender)
        bodies = list(lab.bodies(contender, count, text[:length]))
        values = lab.drain(contender, bodies, count, LIMIT_S, env=env)
        return {**values, "byte_ns": values["cpu_us"] * 1e3 / len(bodies[0])}
