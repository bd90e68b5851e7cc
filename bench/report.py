"""docs/benchmarks.md and its plots, made of the raw results and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from . import plot
from .contenders import CONTENDERS, OURS
from .job import Job, Metric
from .results import Results, Spread
from .targets import BASELINE, CHECKS, TARGETS, baseline, ratios

#: Minutes from which on a run was interrupted, and gone on with.
_IN_ONE_GO = 120
#: What was found out by hand.
ACCELERATOR = Path(__file__).with_name("accelerator.md")

#: Percent of the processors' time that other work takes on a machine that isn't idle.
_BUSY = 10.0


class Report:
    """The report of one run.

    :param file: the Markdown file; plots and raw data go into a folder of its name beside it
    """

    def __init__(self, file: Path, results: Results, jobs: Sequence[Job], quick: bool) -> None:
        self.file = file
        self.folder = file.with_suffix("")
        self._results = results
        self._jobs = jobs
        self._quick = quick
        #: Reasons that have been given.
        self._said: set[tuple[int, str]] = set()

    def write(self) -> None:
        """Write all of it anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.svg"):
            old.unlink()
        text = "\n".join(self._document())
        self.file.write_text(re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n", encoding="utf-8")
        data = self._results.path.read_text(encoding="utf-8")
        (self.folder / "results.jsonl").write_text(data, encoding="utf-8")

    def targets(self) -> Iterator[str]:
        """The table of goals."""
        yield "| figure | to reach | measured | | why |"
        yield "|---|---|---|---|---|"
        for target in TARGETS:
            limit = f"{target.sign} {target.limit:g} {target.unit}".strip()
            figure = target.figure
            spread = figure.of(self._results)
            if spread is None:
                first = figure.first
                errors = self._results.errors(first.job, first.case, first.over or OURS)
                errors = errors or self._results.errors(first.job, first.case, OURS)
                yield f"| {target.title} | {limit} | {_remark(errors) or 'not measured'} | – | |"
                continue
            measured = _spread(spread, target.digits)
            reached = target.met(spread)
            state = "reached" if reached else "**missed**"
            why = "" if reached else target.why or self._unknown()
            if spread.low < target.limit < spread.high:
                why = f"{why}; some rounds say otherwise" if why else "some rounds say otherwise"
            yield f"| {target.title} | {limit} | {measured} | {state} | {why} |"

    def _unknown(self) -> str:
        """What is said of a miss that nobody has explained."""
        return (
            "the machine had other work"
            if is_busy(self._results.run)
            else "the reason is not known yet"
        )

    def _document(self) -> Iterator[str]:
        run = self._results.run
        yield "# Side by side"
        yield ""
        yield (
            "The generated service and its peers at the same jobs, on one machine, in one run. "
            "`make bench` makes this page; nothing in it is written by hand but the explanations, and a section "
            "about an accelerator that says so."
        )
        yield ""
        yield (
            f"Run of {run['began']} on {run['processor']}, {run['cores']} cores, "
            f"{run['memory_gib']} GiB, {run['system']}, Linux {run['kernel']}, Python {run['python']}, "
            f"{_tools(run)}; template {run['template']}.{_occupied(run)}{self._took()}"
        )
        if run.get("remark"):
            yield run["remark"]
        if is_busy(run):
            yield (
                "So it had other work to do: times and rates are worse and scatter more than they do on "
                "an idle machine, tails of latencies most of all; CPU per request suffers less."
            )
        yield ""
        packages = ", ".join(
            f"{name} {version}" for name, version in sorted(run["versions"].items())
        )
        yield f"Peers: {packages}; each in an environment of its own, pinned in `bench/`."
        yield ""
        yield (
            "Broker, client and contender share the cores, so times and rates say little by "
            "themselves: compare within a table. Rows are measured in turn, round by round; a figure "
            "is the median of the rounds, with the lowest and the highest in brackets; the main contenders have "
            "more rounds than the rest, who have one or two. Ratios are taken "
            "pair by pair within each round, then their median; the two of a pair are measured one right "
            "after the other, in an order that changes. The best of a column is bold."
        )
        yield ""
        yield "## What we set out to reach"
        yield ""
        yield from self.targets()
        yield ""
        for job in self._jobs:
            if job.cases(self._quick):
                yield from self._job(job)
        if not self._quick:
            yield ACCELERATOR.read_text(encoding="utf-8")
        yield from self._contenders()
        yield from self._checks()
        yield "## Raw data"
        yield ""
        yield f"[One JSON object for each measurement]({self.folder.name}/results.jsonl)."

    def _took(self) -> str:
        """How long it took, where it was measured in one go."""
        ends = [each["at"] for each in self._results.records.values() if "at" in each]
        began = datetime.strptime(self._results.run["began"], "%Y-%m-%d %H:%M UTC")
        if not ends:
            return ""
        minutes = (datetime.strptime(max(ends), "%Y-%m-%dT%H:%M:%SZ") - began).total_seconds() / 60
        return f" Measured in {max(minutes, 1):.0f} minutes." if minutes < _IN_ONE_GO else ""

    # ---- one job

    def _job(self, job: Job) -> Iterator[str]:
        yield f"## {job.title}"
        yield ""
        yield job.text
        yield ""
        if job.left_out and not self._quick:
            yield job.left_out
            yield ""
        if job.matrix:
            yield from self._matrix(job)
            yield from job.own(self._results, self.folder)
            return
        for case in job.cases(self._quick):
            rows = self._order(job, case)
            if case:
                yield f"### {case[0].upper()}{case[1:]}"
                yield ""
            yield from self._table(job, case, rows)
            yield ""
            yield from self._failures(job, case)
            yield from self._place(job, case, rows)
            for metric in job.metrics:
                if metric.plot:
                    yield from self._plot(job, case, rows, metric)
        yield from job.own(self._results, self.folder)

    def _matrix(self, job: Job) -> Iterator[str]:
        """All cases in one table, and a plot of how ours fares from case to case."""
        cases = job.cases(self._quick)
        rows = job.rows(cases[0], self._quick) if cases else ()
        heads = [f"{job.label(row)}: {metric.title}" for metric in job.metrics for row in rows]
        yield "| " + " | ".join(["", *heads, "ratio"]) + " |"
        yield "|---" + "|---:" * (len(heads) + 1) + "|"
        bars = []
        for case in cases:
            cells = [case]
            for metric in job.metrics:
                for row in rows:
                    spread = self._results.spread(job.number, case, row, metric.key)
                    cells.append(_spread(spread, metric.digits) if spread else "–")
            first = job.metrics[0].key
            if job.since:
                ratio = self._results.growth(job.number, case, job.since, OURS, first)
            else:
                ratio = self._results.ratio(job.number, case, OURS, job.reference or OURS, first)
            cells.append(f"{ratio.median:.2f}" if ratio else "–")
            yield "| " + " | ".join(cells) + " |"
            if ours := self._results.spread(job.number, case, OURS, first):
                bars.append(plot.Bar(case, ours, True))
        yield ""
        for case in cases:
            yield from self._failures(job, case)
        if len(bars) > 1:
            yield from self._draw(f"{job.metrics[0].title}, generated service", job.slug, bars, 1)

    def _order(self, job: Job, case: str) -> list[str]:
        """Rows with values, the best first."""
        first = self._first(job, case)
        found: list[tuple[float, str]] = []
        for row in job.rows(case, self._quick):
            spread = self._results.spread(job.number, case, row, first.key)
            if spread:
                found.append((spread.median, row))
        found.sort(key=lambda each: each[0], reverse=first.better == "higher")
        return [row for _, row in found]

    def _first(self, job: Job, case: str) -> Metric:
        """The metric that decides the order: the first that was measured."""
        for metric in job.metrics:
            for row in job.rows(case, self._quick):
                if self._results.values(job.number, case, row, metric.key):
                    return metric
        return job.metrics[0]

    def _table(self, job: Job, case: str, rows: Sequence[str]) -> Iterator[str]:
        reference = job.reference if job.reference in rows else None
        metrics = [
            metric
            for metric in job.metrics
            if any(self._results.values(job.number, case, row, metric.key) for row in rows)
        ]
        heads = [metric.title for metric in metrics]
        if reference:
            heads.append("ratio")
        yield "| " + " | ".join(["", *heads]) + " |"
        yield "|---" + "|---:" * len(heads) + "|"
        best = {metric.key: self._best(job, case, rows, metric) for metric in metrics}
        for row in rows:
            cells = [job.label(row)]
            for metric in metrics:
                spread = self._results.spread(job.number, case, row, metric.key)
                text = _spread(spread, metric.digits) if spread else "–"
                mark = spread is not None and spread.median == best[metric.key]
                cells.append(re.sub(r"^([^(]+?)(?= \(|$)", r"**\1**", text) if mark else text)
            if reference:
                first = self._first(job, case).key
                ratio = self._results.ratio(job.number, case, row, reference, first)
                cells.append(f"{ratio.median:.2f}" if ratio else "–")
            yield "| " + " | ".join(cells) + " |"

    def _best(self, job: Job, case: str, rows: Sequence[str], metric: Metric) -> float | None:
        rows = [row for row in rows if row not in job.bounds]
        spreads = (self._results.spread(job.number, case, row, metric.key) for row in rows)
        medians = [spread.median for spread in spreads if spread]
        if not medians or not metric.better or len(rows) < 2:
            return None
        return min(medians) if metric.better == "lower" else max(medians)

    def _failures(self, job: Job, case: str) -> Iterator[str]:
        said = False
        for row in job.rows(case, self._quick):
            errors = self._results.errors(job.number, case, row)
            if errors:
                said = True
                rounds = f" ({len(errors)} rounds)" if len(errors) > 1 else ""
                yield f"- {job.label(row)}{rounds}: {_remark(errors)}"
        if said:
            yield ""

    def _place(self, job: Job, case: str, rows: Sequence[str]) -> Iterator[str]:
        """The reason where we are not first."""
        rows = [row for row in rows if row not in job.bounds]
        if OURS not in rows or rows[0] == OURS:
            return
        first = self._first(job, case)
        ours = self._results.spread(job.number, case, OURS, first.key)
        theirs = self._results.spread(job.number, case, rows[0], first.key)
        assert ours and theirs
        why = job.reason(case, rows[0])
        if ours.low <= theirs.high and theirs.low <= ours.high:
            why = why or "their rounds overlap, so this run can't tell them apart."
        if why and (job.number, why) in self._said:
            yield "Not first here, for the reason given above."
        else:
            yield f"Not first here: {why or 'the reason is not known yet.'}"
        self._said.add((job.number, why))
        yield ""

    def _plot(self, job: Job, case: str, rows: Sequence[str], metric: Metric) -> Iterator[str]:
        bars, bounds = [], []
        for row in rows:
            spread = self._results.spread(job.number, case, row, metric.key)
            if spread and spread.median > 0:
                label = re.sub(r"[*`]", "", job.label(row))
                if row in job.bounds:
                    bounds.append(plot.Bar(label, spread, False))
                    continue
                if len(label) > plot.LABEL:
                    label = label.partition(",")[0]
                bars.append(plot.Bar(label, spread, row == OURS))
        if len(bars) < 2:
            return
        title = metric.title + (f": {case}" if case else "")
        name = f"{job.slug} {case} {metric.key}"
        yield from self._draw(title, name, bars, metric.digits, bounds)

    def _draw(
        self,
        title: str,
        name: str,
        bars: Sequence[plot.Bar],
        digits: int,
        bounds: Sequence[plot.Bar] = (),
    ) -> Iterator[str]:
        name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        svg = plot.bars(title, bars, digits, bounds)
        (self.folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        yield f"![{title}]({self.folder.name}/{name}.svg)"
        yield ""

    # ---- the rest

    def _contenders(self) -> Iterator[str]:
        yield "## Who does more, who does less"
        yield ""
        yield (
            "All decode the same requests, send the reply, then acknowledge. Each is written as its "
            "documentation recommends, in `bench/contenders/`. The generated service decodes with its own "
            "parser, C and Go with one in `bench/contenders/compiled/`; all others use the incumbent's "
            "codec, which is `eval`."
        )
        yield ""
        for contender in CONTENDERS:
            if contender.note:
                yield f"- {contender.label}: {contender.note}."
        yield ""

    def _checks(self) -> Iterator[str]:
        yield "## What the regression check compares"
        yield ""
        yield (
            "`make bench CHECK=1` measures these ratios and nothing else, and fails when one of them is "
            f"worse than the one in `bench/{BASELINE.name}` by more than its tolerance. The whole run "
            "compares them too; `QUICK=1` has twice the tolerances."
        )
        yield ""
        yield from checks(self._results)
        yield ""


def checks(results: Results) -> Iterator[str]:
    """The table of the ratios that are compared with the committed ones."""
    yield "| ratio | committed | this run | tolerance |"
    yield "|---|---:|---:|---:|"
    known, found = baseline(), ratios(results)
    for check in CHECKS:
        cells = [
            f"{each[check.name]:.2f}" if check.name in each else "–" for each in (known, found)
        ]
        yield f"| {check.name}, against {check.against} | {' | '.join(cells)} | {check.tolerance:.0%} |"


def is_busy(run: Mapping[str, Any]) -> bool:
    """Whether the machine had other work when a run began, as far as that was looked at."""
    return bool((run.get("occupied") or 0) >= _BUSY)


def _occupied(run: Mapping[str, Any]) -> str:
    if run.get("occupied") is None:
        return ""
    return f" Of its processors' time {run['occupied']:g} % went to other work when it began."


def _tools(run: Mapping[str, Any]) -> str:
    """The programs that took part and come from no package index."""
    tools = {"RabbitMQ": run["rabbitmq"], **run.get("tools", {})}
    return ", ".join(f"{name} {version}" for name, version in tools.items() if version)


def _spread(spread: Spread, digits: int) -> str:
    def number(value: float) -> str:
        return f"{value:,.{digits}f}".replace(",", "\u202f")

    if number(spread.low) == number(spread.high):
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def _remark(errors: Sequence[str]) -> str:
    """A failure as one cell of Markdown."""
    if not errors:
        return ""
    return re.sub(r"\s+", " ", errors[-1]).replace("|", "/")[:200]
