"""The project's own goals, and the ratios that must not get worse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .contenders import BLOCKING, GO, OURS, RAW, WIDE, C
from .jobs import asynchronous, pace, workers
from .jobs.growth import LONGEST
from .jobs.start import IDLING
from .results import Results, Spread

BASELINE = Path(__file__).with_name("baseline.json")
#: Growth that still counts as flat.
FLAT = 1.15
_ONE = "1 in flight"
_WAITING = "100 ms of waiting, 32 at a time"
_DECODED = "reference request"


@dataclass(frozen=True)
class Figure:
    """Where a figure of the generated service stands among the results."""

    job: int
    case: str
    metric: str
    #: Row to divide by, pair by pair; None for the figure itself.
    over: str | None = None
    #: Divide the other by ours instead.
    upside_down: bool = False
    #: Case to divide by instead of a row, within each round: how much more it is than there.
    since: str | None = None

    @property
    def first(self) -> Figure:
        """As for `Worst`."""
        return self

    def of(self, results: Results) -> Spread | None:
        """What a run gave."""
        if self.since is not None:
            return results.growth(self.job, self.case, self.since, OURS, self.metric)
        if self.over is None:
            return results.spread(self.job, self.case, OURS, self.metric)
        pair = (self.over, OURS) if self.upside_down else (OURS, self.over)
        return results.ratio(self.job, self.case, *pair, self.metric)


@dataclass(frozen=True)
class Worst:
    """The worst of several figures."""

    figures: tuple[Figure, ...]
    worst: Literal["highest", "lowest"]

    @property
    def first(self) -> Figure:
        """The one that says why there is none."""
        return self.figures[0]

    def of(self, results: Results) -> Spread | None:
        """What a run gave; None if one of them is missing."""
        spreads = [figure.of(results) for figure in self.figures]
        found = [spread for spread in spreads if spread is not None]
        if len(found) < len(spreads):
            return None
        return (max if self.worst == "highest" else min)(found, key=lambda each: each.median)


@dataclass(frozen=True)
class Target:
    """A figure that the generated service is to reach."""

    title: str
    sign: Literal["≤", "≥"]
    limit: float
    unit: str
    digits: int
    figure: Figure | Worst
    #: Why it is missed, as far as that is known: said where it is.
    why: str = ""

    def met(self, spread: Spread) -> bool:
        """Whether the median reaches it."""
        reached = spread.median - self.limit
        return reached <= 0 if self.sign == "≤" else reached >= 0


#: Why some are missed.
_INTERPRETED = "most of it is the interpreter's: see where the time goes"
_TURNS = (
    "with 4 to 32 queues there are some three times as many switches of threads for a request "
    "([decision](decisions.md#a-thread-for-each-queue))"
)
_COUNTED = "each message costs two notes in lists, which are put into buckets a few dozen at a time"
_EIGHT = "the worst of eight cases, whose turns scatter by more than that"

CPU_RATIO = Figure(1, "", "cpu_us", RAW)
RATE_RATIO = Figure(1, "", "rate", RAW)
NEON_RATIO = Figure(1, "", "rate", "neon-message")
P50_RATIO = Figure(2, _ONE, "p50_ms", RAW)
WAITING = Figure(4, _WAITING, "rate")
LARGE = Figure(3, "64 KiB", "rate", WIDE)
HUGE = Figure(3, "1 MiB", "rate", WIDE)
IDLE = Figure(6, IDLING, "idle_percent")
DECODING = Figure(7, _DECODED, "cpu_us", "literal_eval", upside_down=True)
RECOVERY = Figure(5, "", "answers_s")
START = Figure(6, "", "consuming_s")
MEMORY = Figure(6, "", "idle_mb")
RENDERING = Figure(8, "rendering", "seconds")
IMAGE = Figure(8, "image", "size_mb")
LONG_QUEUES = Worst(
    tuple(
        Figure(9, case, "cpu_us", since="10³ queued")
        for case in ("10² queued", "10⁴ queued", "10⁵ queued", LONGEST)
    ),
    "highest",
)
MANY_QUEUES = Figure(9, "64 queues", "cpu_us", since="1 queue")
ALL_QUEUES = Worst(
    tuple(Figure(9, case, "cpu_us", since="1 queue") for case in ("16 queues", "64 queues")),
    "highest",
)
MANY_WORKERS = Worst(
    tuple(
        Figure(15, case, "cpu_us", since=workers.ONE)
        for case in workers.WORKERS
        if case != workers.ONE
    ),
    "highest",
)
PER_BYTE = Worst(
    (Figure(3, "4 KiB", "byte_ns", since="250 B"), Figure(3, "64 KiB", "byte_ns", since="4 KiB")),
    "highest",
)
ASYNC_CPU = Worst(
    tuple(
        Figure(12, asynchronous.ECHO, "cpu_us", over, upside_down=True)
        for over in (asynchronous.FASTSTREAM, asynchronous.AIO_PIKA)
    ),
    "lowest",
)
ASLEEP = Figure(12, asynchronous.SLEEP, "rate")
COUNTED_CPU = Figure(13, "", "ratio")
EVENT_CPU = Figure(10, "", "cpu_us", BLOCKING)
EVENT_RATE = Figure(10, "", "rate", BLOCKING)


def _paced(cases: Sequence[str], metric: str, over: str | None = None) -> tuple[Figure, ...]:
    return tuple(Figure(11, case, metric, over) for case in cases)


PACED_CPU = Worst(_paced(pace.QUICK, "cpu_us", pace.FIXED), "highest")
PACED_RATE = Worst(_paced(pace.QUICK, "rate", pace.FIXED), "lowest")
SHARES = Worst(_paced(pace.SEVERAL, "share_percent"), "highest")
IN_HAND = Worst(_paced(pace.SLOW, "in_hand_of_allowed"), "highest")
BODIES_GO = Worst(
    tuple(Figure(3, case, "cpu_us", GO) for case in ("250 B", "4 KiB")),
    "highest",
)
TAIL_GO = Worst(
    tuple(Figure(2, case, "p99_ms", GO) for case in ("16 in flight", "256 in flight")),
    "highest",
)

TARGETS = (
    Target(
        "CPU per request against the bare pika loop",
        "≤",
        0.30,
        "",
        2,
        CPU_RATIO,
        why=_INTERPRETED,
    ),
    Target(
        "requests/s against the bare pika loop",
        "≥",
        2.4,
        "",
        2,
        RATE_RATIO,
        why="broker and client share the processors with the service, and take as long for each request as ever",
    ),
    Target("requests/s against neon's usual reply path", "≥", 150, "", 0, NEON_RATIO),
    Target("p50 round trip against the bare pika loop, one at a time", "≤", 1.15, "", 2, P50_RATIO),
    Target(
        "CPU per request against C on librabbitmq",
        "≤",
        2.5,
        "",
        2,
        Figure(1, "", "cpu_us", C),
        why=_INTERPRETED,
    ),
    Target(
        "CPU per request against Go, bodies up to 4 KiB (the worst)",
        "≤",
        0.75,
        "",
        2,
        BODIES_GO,
        why=_INTERPRETED,
    ),
    Target("requests/s against Go", "≥", 1, "", 2, Figure(1, "", "rate", GO)),
    Target(
        "p50 round trip against C, one at a time",
        "≤",
        1.2,
        "",
        2,
        Figure(2, _ONE, "p50_ms", C),
        why="a request wakes two threads, one that reads and one that handles, and C has one; on one it would be 1.5 "
        "([decision](decisions.md#two-threads-for-a-request))",
    ),
    Target("p99 round trip against Go, 16 and 256 in flight (the worst)", "≤", 1, "", 2, TAIL_GO),
    Target("handler that waits 100 ms, 32 workers", "≥", 300, "requests/s", 0, WAITING),
    Target(
        "requests/s, bodies of 64 KiB, against the bare loop that reads as much",
        "≥",
        1,
        "",
        2,
        LARGE,
    ),
    Target("requests/s, bodies of 1 MiB, against the same", "≥", 1, "", 2, HUGE),
    Target("decoding the reference payload against `ast.literal_eval`", "≥", 4, "×", 1, DECODING),
    Target("answering again after the broker accepts connections", "≤", 1, "s", 2, RECOVERY),
    Target("process start to consuming", "≤", 0.2, "s", 3, START),
    Target("resident memory, idle", "≤", 28, "MB", 1, MEMORY),
    Target("processor time while idle", "≤", 0.1, "% of a core", 3, IDLE),
    Target(
        "rendering with defaults",
        "≤",
        0.6,
        "s",
        2,
        RENDERING,
        why="cookiecutter starts slowly, and runs each hook in a Python of its own",
    ),
    Target("image size over its base", "≤", 8, "MB", 1, IMAGE),
    Target(
        "CPU per request, 10² to 10⁶ queued against 10³ (the worst)",
        "≤",
        FLAT,
        "",
        2,
        LONG_QUEUES,
        why="the shorter a burst, the fewer requests share a system call and the waking of a thread",
    ),
    Target(
        "CPU per request, 16 and 64 queues against 1 (the worst)",
        "≤",
        FLAT,
        "",
        2,
        ALL_QUEUES,
        why=_TURNS,
    ),
    Target(
        "CPU per request, 4 to 256 workers against 1 (the worst)",
        "≤",
        FLAT,
        "",
        2,
        MANY_WORKERS,
    ),
    Target(
        "CPU per byte, 4 KiB against 250 B, 64 KiB against 4 KiB (the worst)",
        "≤",
        FLAT,
        "",
        2,
        PER_BYTE,
    ),
    Target("memory, idle, 64 queues", "≤", 40, "MB", 1, Figure(9, "64 queues", "idle_mb")),
    Target(
        "process start to consuming, 64 queues",
        "≤",
        1,
        "s",
        2,
        Figure(9, "64 queues", "consuming_s"),
    ),
    Target("an event for each request: CPU against pika with confirms", "≤", 1, "", 2, EVENT_CPU),
    Target("the same: requests/s", "≥", 1, "", 2, EVENT_RATE),
    Target("CPU of FastStream and aio-pika against an async handler's", "≥", 5, "×", 1, ASYNC_CPU),
    Target("1000 async handlers that sleep 100 ms", "≥", 3000, "requests/s", 0, ASLEEP),
    Target(
        "CPU per request with metrics, against without", "≤", 1.03, "", 3, COUNTED_CPU, why=_COUNTED
    ),
    Target(
        "in hand as found out, against 200: CPU of quick handlers (the worst)",
        "≤",
        1.05,
        "",
        2,
        PACED_CPU,
        why=_EIGHT,
    ),
    Target("the same: requests/s (the worst)", "≥", 0.95, "", 2, PACED_RATE, why=_EIGHT),
    Target(
        "shares of four replicas differ by (the worst)",
        "≤",
        10,
        "%",
        1,
        SHARES,
        why="each may end its turn with 0.2 s of work in hand, a twentieth of it where the handler waits 1 ms",
    ),
    Target(
        "in hand, against 0.2 s of work or two for each worker (the worst)", "≤", 1, "", 2, IN_HAND
    ),
)


@dataclass(frozen=True)
class Check:
    """A ratio of ours to a reference that is compared with the committed one."""

    name: str
    figure: Figure
    better: Literal["lower", "higher"]
    #: Share by which it may get worse: what an idle and a busy machine differ by, and some more.
    tolerance: float

    @property
    def against(self) -> str:
        """What ours is divided by."""
        return self.figure.since or self.figure.over or ""

    def needs(self, job: int, case: str, row: str) -> bool:
        """Whether a measurement goes into it."""
        figure = self.figure
        rows, cases = (OURS, figure.over or OURS), (figure.case, figure.since or figure.case)
        return job == figure.job and case in cases and row in rows


CHECKS = (
    Check("CPU per request", CPU_RATIO, "lower", 0.25),
    Check("requests/s", RATE_RATIO, "higher", 0.4),
    Check("round trip, 1 in flight", P50_RATIO, "lower", 0.3),
    Check("CPU, 64 KiB bodies", Figure(3, "64 KiB", "cpu_us", RAW), "lower", 0.35),
    Check("requests/s, 32 workers waiting", Figure(4, _WAITING, "rate", RAW), "higher", 0.2),
    Check("CPU of the start", Figure(6, "", "cpu_s", RAW), "lower", 0.25),
    Check("memory, idle", Figure(6, "", "idle_mb", RAW), "lower", 0.1),
    Check(
        "decoding the reference request",
        Figure(7, _DECODED, "cpu_us", "literal_eval"),
        "lower",
        0.25,
    ),
    # Half: what one queue takes differs by a third from run to run.
    Check("CPU per request, 64 queues", MANY_QUEUES, "lower", 0.5),
    Check("CPU per request, an event for each", EVENT_CPU, "lower", 0.3),
)


def ratios(results: Results) -> dict[str, float]:
    """The checked ratios of a run, as far as it has them."""
    found = {check.name: check.figure.of(results) for check in CHECKS}
    return {name: round(spread.median, 3) for name, spread in found.items() if spread}


def baseline() -> dict[str, float]:
    """The committed ratios; none where there is no file yet."""
    return json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}


def accept(results: Results) -> None:
    """Take a run's ratios for the ones to compare with."""
    BASELINE.write_text(json.dumps(ratios(results), indent=2) + "\n", encoding="utf-8")


def regressions(results: Results, loose: float = 1.0) -> Iterator[str]:
    """What has got worse than its tolerance allows, a line for each.

    :param loose: tolerances are multiplied by this
    """
    known = baseline()
    measured = ratios(results)
    for check in CHECKS:
        if check.name not in known or not results.has(check.figure.job, check.figure.case):
            continue
        if check.name not in measured:
            yield f"{check.name}: not measured; the page says why"
            continue
        before, now = known[check.name], measured[check.name]
        allowed = 1 + check.tolerance * loose
        limit = before * allowed if check.better == "lower" else before / allowed
        if (now > limit) if check.better == "lower" else (now < limit):
            yield (
                f"{check.name}: {now:.2f} of {check.against}'s, it was {before:.2f}; "
                f"{'at most' if check.better == 'lower' else 'at least'} {limit:.2f} is allowed"
            )
