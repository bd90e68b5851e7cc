"""The project's own goals, and the ratios that must not get worse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .contenders import OURS, RAW, WIDE
from .results import Results, Spread

BASELINE = Path(__file__).with_name("baseline.json")
#: Growth that still counts as flat: what two runs of one case differ by, and a little more.
FLAT = 1.25
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

    def of(self, results: Results) -> Spread | None:
        """What a run gave."""
        if self.since is not None:
            return results.growth(self.job, self.case, self.since, OURS, self.metric)
        if self.over is None:
            return results.spread(self.job, self.case, OURS, self.metric)
        pair = (self.over, OURS) if self.upside_down else (OURS, self.over)
        return results.ratio(self.job, self.case, *pair, self.metric)


@dataclass(frozen=True)
class Target:
    """A figure that the generated service is to reach."""

    title: str
    sign: Literal["≤", "≥"]
    limit: float
    unit: str
    digits: int
    figure: Figure

    def met(self, spread: Spread) -> bool:
        """Whether the median reaches it."""
        reached = spread.median - self.limit
        return reached <= 0 if self.sign == "≤" else reached >= 0


CPU_RATIO = Figure(1, "", "cpu_us", RAW)
RATE_RATIO = Figure(1, "", "rate", RAW)
NEON_RATIO = Figure(1, "", "rate", "neon-message")
P50_RATIO = Figure(2, _ONE, "p50_ms", RAW)
WAITING = Figure(4, _WAITING, "rate")
LARGE = Figure(3, "64 KiB", "rate", WIDE)
HUGE = Figure(3, "1 MiB", "rate", WIDE)
IDLE = Figure(6, "", "idle_percent")
DECODING = Figure(7, _DECODED, "cpu_us", "literal_eval", upside_down=True)
RECOVERY = Figure(5, "", "answers_s")
START = Figure(6, "", "consuming_s")
MEMORY = Figure(6, "", "idle_mb")
RENDERING = Figure(8, "rendering", "seconds")
IMAGE = Figure(8, "image", "size_mb")
LONG_QUEUE = Figure(9, "10⁶ queued", "cpu_us", since="10³ queued")
MANY_QUEUES = Figure(9, "64 queues", "cpu_us", since="1 queue")

TARGETS = (
    Target("CPU per request against the bare pika loop", "≤", 0.45, "", 2, CPU_RATIO),
    Target("requests/s against the bare pika loop", "≥", 2, "", 2, RATE_RATIO),
    Target("requests/s against neon's usual reply path", "≥", 150, "", 0, NEON_RATIO),
    Target("p50 round trip against the bare pika loop, one at a time", "≤", 1.15, "", 2, P50_RATIO),
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
    Target("rendering with defaults", "≤", 0.6, "s", 2, RENDERING),
    Target("image size over its base", "≤", 8, "MB", 1, IMAGE),
    Target("CPU per request, 10⁶ queued against 10³", "≤", FLAT, "", 2, LONG_QUEUE),
    Target("CPU per request, 64 queues against 1", "≤", 1.15, "", 2, MANY_QUEUES),
)


@dataclass(frozen=True)
class Check:
    """A ratio of ours to a reference that is compared with the committed one."""

    name: str
    job: int
    case: str
    metric: str
    over: str
    better: Literal["lower", "higher"]
    #: Share by which it may get worse: what an idle and a busy machine differ by, and some more.
    tolerance: float


CHECKS = (
    Check("CPU per request", 1, "", "cpu_us", RAW, "lower", 0.25),
    Check("requests/s", 1, "", "rate", RAW, "higher", 0.4),
    Check("round trip, 1 in flight", 2, _ONE, "p50_ms", RAW, "lower", 0.3),
    Check("CPU, 64 KiB bodies", 3, "64 KiB", "cpu_us", RAW, "lower", 0.35),
    Check("requests/s, 32 workers waiting", 4, _WAITING, "rate", RAW, "higher", 0.2),
    Check("CPU of the start", 6, "", "cpu_s", RAW, "lower", 0.25),
    Check("memory, idle", 6, "", "idle_mb", RAW, "lower", 0.1),
    Check("decoding the reference request", 7, _DECODED, "cpu_us", "literal_eval", "lower", 0.25),
)


def ratios(results: Results) -> dict[str, float]:
    """The checked ratios of a run, as far as it has them."""
    found = {
        check.name: results.ratio(check.job, check.case, OURS, check.over, check.metric)
        for check in CHECKS
    }
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
        if check.name not in known or not results.has(check.job, check.case):
            continue
        if check.name not in measured:
            yield f"{check.name}: not measured; the page says why"
            continue
        before, now = known[check.name], measured[check.name]
        allowed = 1 + check.tolerance * loose
        limit = before * allowed if check.better == "lower" else before / allowed
        if (now > limit) if check.better == "lower" else (now < limit):
            yield (
                f"{check.name}: {now:.2f} of {check.over}'s, it was {before:.2f}; "
                f"{'at most' if check.better == 'lower' else 'at least'} {limit:.2f} is allowed"
            )
