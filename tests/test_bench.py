"""The benchmark's own arithmetic: counting, pairing, comparing with what is committed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

import pytest
from baked import TEMPLATE

from bench import compiled, environment, machine, pythons, report, targets
from bench.contenders import OURS, RAW
from bench.environment import EnvironmentFailed
from bench.job import Job, Metric, Place, Values
from bench.jobs import JOBS
from bench.lab import Lab
from bench.results import Results, Spread
from bench.run import keys, measure, turned
from bench.targets import Figure
from bench.turns import Taken

FRAMEWORKS = ("kombu", "dramatiq", "aio-pika", "nameko", "faststream")


def test_ratios_are_taken_within_a_round(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    for number, (ours, raw) in enumerate([(10, 100), (30, 100), (40, 200)]):
        results.add((1, "", OURS, number), {"cpu_us": ours})
        results.add((1, "", RAW, number), {"cpu_us": raw})
    results.add((1, "", OURS, 3), {"cpu_us": 1000})  # without a partner it doesn't count
    assert results.ratio(1, "", OURS, RAW, "cpu_us") == Spread(0.2, 0.1, 0.3, 3)


def test_an_interrupted_run_goes_on_and_a_changed_template_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    first = Results(file, {"fingerprint": "a"})
    first.add((1, "", OURS, 0), {"cpu_us": 20})
    with file.open("a") as open_file:
        open_file.write('{"job": 1, "case"')  # killed while it wrote
    again = Results(file, {"fingerprint": "a"})
    assert (1, "", OURS, 0) in again
    again.add((1, "", OURS, 1), {"cpu_us": 21})
    assert (1, "", OURS, 1) in Results(file, {"fingerprint": "a"})
    assert (1, "", OURS, 0) not in Results(file, {"fingerprint": "b"})


@pytest.mark.parametrize(("ours", "worse"), [(20, 0), (24, 0), (26, 1), (10, 0)])
def test_a_ratio_worse_than_its_tolerance_is_a_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: float, worse: int
) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps({"CPU per request": 0.2}))
    monkeypatch.setattr(targets, "BASELINE", baseline)
    results = Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    results.add((1, "", OURS, 0), {"cpu_us": ours, "rate": 1})
    results.add((1, "", RAW, 0), {"cpu_us": 100, "rate": 1})
    assert len(list(targets.regressions(results))) == worse


def test_a_figure_that_a_run_has_failed_to_measure_is_a_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps({"CPU per request": 0.2, "memory, idle": 1.1}))
    monkeypatch.setattr(targets, "BASELINE", baseline)
    results = Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    results.add((1, "", OURS, 0), {}, "ended with exit code 1")
    results.add((1, "", RAW, 0), {"cpu_us": 100, "rate": 1})
    [line] = targets.regressions(results)  # of the jobs that were run
    assert line.startswith("CPU per request: not measured")


def test_growth_is_of_one_row_from_case_to_case(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    for number, (few, many) in enumerate([(20, 22), (20, 30), (40, 40)]):
        results.add((9, "10³ queued", OURS, number), {"cpu_us": few})
        results.add((9, "10⁶ queued", OURS, number), {"cpu_us": many})
    assert targets.Figure(9, "10⁶ queued", "cpu_us", since="10³ queued").of(results) == Spread(
        1.1, 1.0, 1.5, 3
    )


def test_a_pair_is_measured_side_by_side_whoever_begins_the_round() -> None:
    rows = (OURS, RAW, "kombu", "faststream", "aio-pika")
    firsts, orders = set(), set()
    for number in range(8):
        order = turned(rows, (OURS, RAW), number)
        assert sorted(order) == sorted(rows)
        assert abs(order.index(OURS) - order.index(RAW)) == 1
        firsts.add(order[0])
        orders.add(order.index(OURS) < order.index(RAW))
    assert firsts == {OURS, *rows[2:]} and orders == {True, False}


def test_the_worst_of_several_figures_is_told_and_none_where_one_is_missing(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    for case, share in (("a", 3.0), ("b", 30.0), ("c", 7.0)):
        results.add((11, case, OURS, 0), {"share_percent": share})
    of = {case: targets.Figure(11, case, "share_percent") for case in "abcd"}
    assert targets.Worst((of["a"], of["b"], of["c"]), "highest").of(results) == Spread(
        30, 30, 30, 1
    )
    assert targets.Worst((of["a"], of["b"], of["c"]), "lowest").of(results) == Spread(3, 3, 3, 1)
    assert targets.Worst((of["a"], of["d"]), "highest").of(results) is None


def test_the_check_measures_what_it_compares_and_nothing_else() -> None:
    plan = [
        key
        for job in JOBS
        for key in keys(job, False)
        if any(check.needs(*key[:3]) for check in targets.CHECKS)
    ]
    measured = {key[:3] for key in plan}
    for check in targets.CHECKS:
        figure = check.figure
        rows, cases = {OURS, figure.over or OURS}, {figure.case, figure.since or figure.case}
        assert {(figure.job, case, row) for case in cases for row in rows} <= measured
    assert len(plan) < sum(1 for job in JOBS for _ in keys(job, False)) / 5


def test_every_figure_that_is_to_be_reached_is_measured() -> None:
    measured = {key[:3] for job in JOBS for key in keys(job, False)}
    for target in targets.TARGETS:
        figure = target.figure
        for each in figure.figures if isinstance(figure, targets.Worst) else (figure,):
            for case in (each.case, each.since or each.case):
                for row in (OURS, each.over or OURS):
                    assert (each.job, case, row) in measured, target.title


def test_rows_that_a_ratio_is_taken_of_are_measured_in_the_same_rounds() -> None:
    rounds: dict[tuple[int, str, str], set[int]] = {}
    for job in JOBS:
        for number, case, row, turn in keys(job, False):
            rounds.setdefault((number, case, row), set()).add(turn)
    for target in targets.TARGETS:
        figure = target.figure
        for each in figure.figures if isinstance(figure, targets.Worst) else (figure,):
            ours, over = (rounds[each.job, each.case, row] for row in (OURS, each.over or OURS))
            assert ours & over


class Pair(Job):
    """Two rows that take turns, and one by itself."""

    number, slug, title, text = 99, "pair", "Pair", ""
    metrics = (Metric("cpu_us", "CPU", 1),)

    def __init__(self, error: Exception | None = None, needs: str = "") -> None:
        self.asked: list[object] = []
        self._error = error
        self._needs = needs

    def cases(self, quick: bool) -> tuple[str, ...]:
        return ("",)

    def rows(self, case: str, quick: bool) -> tuple[str, ...]:
        return OURS, RAW, "kombu"

    def rounds(self, case: str, quick: bool) -> int:
        return 2

    def needs(self, row: str) -> tuple[str, ...]:
        return (self._needs,) if row == RAW and self._needs else ()

    def together(self, case: str, row: str) -> str:
        return "both" if row in (OURS, RAW) else ""

    def measure_together(
        self, lab: Lab, those: Sequence[Place], rounds: int, quick: bool
    ) -> dict[Place, list[Values]]:
        self.asked.append(sorted(those))
        if self._error:
            raise self._error
        return {place: [{"cpu_us": turn} for turn in range(rounds)] for place in those}

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        self.asked.append(row)
        return {"cpu_us": 7}


class NoLab:
    """What `measure` needs of one."""

    folder = Path("/nowhere")
    missing: ClassVar[dict[str, str]] = {"rare": "no header amqp.h"}

    def revive(self) -> None:
        pass


def test_those_that_take_turns_are_measured_once_for_all_rounds(tmp_path: Path) -> None:
    job, results = Pair(), Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    measure(cast(Lab, NoLab()), [job], list(keys(job, False)), results, False)
    both = [("", OURS), ("", RAW)]
    assert sorted(map(str, job.asked)) == sorted(map(str, [sorted(both), "kombu", "kombu"]))
    for _, row in both:
        assert results.values(99, "", row, "cpu_us") == {0: 0, 1: 1}
    assert results.values(99, "", "kombu", "cpu_us") == {0: 7, 1: 7}


def test_where_turns_fail_each_row_says_why(tmp_path: Path) -> None:
    job = Pair(TimeoutError("3 requests without a reply"))
    results = Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    measure(cast(Lab, NoLab()), [job], list(keys(job, False)), results, False)
    assert len(job.asked) == 3
    for row in (OURS, RAW):
        assert results.errors(99, "", row) == ["TimeoutError: 3 requests without a reply"] * 2


def test_who_can_t_be_had_takes_no_turn_and_is_in_nobody_s_way(tmp_path: Path) -> None:
    job, results = Pair(needs="rare"), Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    measure(cast(Lab, NoLab()), [job], list(keys(job, False)), results, False)
    assert [("", OURS)] in job.asked
    assert results.values(99, "", OURS, "cpu_us") == {0: 0, 1: 1}
    assert results.errors(99, "", RAW) == ["no header amqp.h"] * 2


def test_those_that_take_turns_have_as_many_rounds_as_each_other() -> None:
    found: dict[tuple[int, str], dict[tuple[str, str], int]] = {}
    for job in JOBS:
        for number, case, row, _ in keys(job, False):
            if word := job.together(case, row):
                rounds = found.setdefault((number, word), {})
                rounds[case, row] = rounds.get((case, row), 0) + 1
    assert found and all(len(set(rounds.values())) == 1 for rounds in found.values())


def test_a_round_of_turns_is_their_median_and_none_counts_twice() -> None:
    taken = Taken([1, 2, 30, 4, 5, 60], [10, 20, 30, 40, 50, 60], 0.2, 27.0)
    rounds = taken.rounds(2)
    assert [each["cpu_us"] for each in rounds] == [2, 5]
    assert [each["rate"] for each in rounds] == [20, 50]


def test_a_compiled_peer_that_can_t_be_had_is_left_out_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    recipe = dataclasses.replace(compiled.RECIPES["librabbitmq"], needs=(tmp_path / "amqp.h",))
    monkeypatch.setitem(compiled.RECIPES, "librabbitmq", recipe)
    peer = compiled.environment("librabbitmq")
    with pytest.raises(EnvironmentFailed) as caught:
        peer.make()
    text = str(caught.value)
    assert "\n" not in text and "amqp.h" in text and "librabbitmq-dev" in text
    assert not peer.ready


def test_what_is_only_read_stays_as_it_is(tmp_path: Path) -> None:
    """Two that read the committed file at the same time left an empty one: each wrote it anew."""
    file = tmp_path / "results.jsonl"
    Results(file, {"fingerprint": "a"}).add((1, "case", "row", 0), {"rate": 1})
    whole = file.read_text()
    for text in (whole, whole + '{"job": 1, "ca', ""):
        file.write_text(text)
        inode = file.stat().st_ino
        read = Results(file, {}, keep=True)
        assert (file.read_text(), file.stat().st_ino) == (text, inode)
        assert len(read.records) == bool(text)
    absent = tmp_path / "absent.jsonl"
    assert not Results(absent, {}, keep=True).records and not absent.exists()


def test_the_committed_ratios_are_those_of_the_committed_page() -> None:
    raw = TEMPLATE / "docs" / "benchmarks" / "results.jsonl"
    assert targets.baseline() == targets.ratios(Results(raw, {}, keep=True))


def test_the_readme_says_no_more_than_the_committed_page() -> None:
    results = Results(TEMPLATE / "docs" / "benchmarks" / "results.jsonl", {}, keep=True)
    used = {row: Figure(1, "", "cpu_us", row).of(results) for row in (RAW, *FRAMEWORKS)}
    said = " ".join((TEMPLATE / "README.md").read_text(encoding="utf-8").split())
    assert "a third of the processor time that a bare pika loop needs" in said
    assert "at most a sixth of what kombu, dramatiq, aio-pika, nameko and FastStream need" in said
    for row, ratio in used.items():  # the service's time over this one's
        assert ratio is not None, row
        assert ratio.median <= (0.36 if row == RAW else 1 / 6), (row, ratio)


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.xdist_group("bench")  # by itself, as it takes long
@pytest.mark.timeout(1300)
def test_the_short_form_measures_all_that_it_promises(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    # Those of the last run, as to install the peers takes 18 s of processor time: another list of packages or
    # another Python makes them anew, and a fresh machine has none.
    kept, here = environment.cache() / "environments", cache / "neon-mq-template" / "bench"
    kept.mkdir(parents=True, exist_ok=True)
    here.mkdir(parents=True)
    (here / "environments").symlink_to(kept)
    done = subprocess.run(
        ["make", "bench", "QUICK=1", "ROUNDS=1"],  # a further round measures the same once more
        cwd=TEMPLATE,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=1200,  # the peers are installed first
    )
    # A ratio may be worse while other tests keep the machine busy, for which make ends with 2, as it
    # does for all that fails; a row that failed may not.
    worse = "worse than before" in done.stdout
    assert done.returncode == (2 if worse else 0), done.stderr[-2000:]
    assert not worse or "Error 1" in done.stderr, done.stderr[-2000:]
    assert "failed:" not in done.stdout and "left out" not in done.stdout
    page = (cache / "neon-mq-template" / "bench" / "quick" / "benchmarks.md").read_text()
    for label in ("**the generated service**", "FastStream", "aio-pika", "neon-mq-connector"):
        assert f"| {label}" in page


def test_a_python_that_can_t_be_had_is_left_out_with_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(EnvironmentFailed, match=r"there is no Python 3\.99 here"):
        pythons.find("3.99")
    liar = tmp_path / "python3.98t"
    liar.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    liar.chmod(0o755)
    with pytest.raises(EnvironmentFailed, match=r"3\.98t"):
        pythons.find("3.98t")  # Its threads aren't free.
    liar.rename(tmp_path / "python3.98")
    found = pythons.find("3.98")
    assert found.command == (str(tmp_path / "python3.98"),)
    assert "found on the machine" in found.text


def test_a_target_that_is_missed_is_shown_with_its_reason(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl", {"fingerprint": "a"})
    for number, ours in enumerate((20, 30, 40)):
        results.add((1, "", OURS, number), {"cpu_us": ours})
        results.add((1, "", "c", number), {"cpu_us": 10})
        results.add((1, "", RAW, number), {"cpu_us": 150})
    lines = list(report.Report(tmp_path / "page.md", results, JOBS, False).targets())
    [missed] = [line for line in lines if "against C on librabbitmq" in line]
    assert missed.endswith(
        "| 3.00 (2.00–4.00) | **missed** | most of it is the interpreter's: see where the time goes; "
        "some rounds say otherwise |"
    )
    [reached] = [line for line in lines if line.startswith("| CPU per request against the bare")]
    assert reached.endswith("| 0.20 (0.13–0.27) | reached | |") or reached.endswith(
        "| 0.20 (0.13–0.27) | reached |  |"
    )


def test_what_else_runs_is_looked_at_as_a_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(1000, 5000), (1150, 5200)])
    monkeypatch.setattr(machine, "_ticks", lambda: next(ticks))
    assert machine.occupied(0.0) == 25.0
    assert report.is_busy({"occupied": 25.0})
    assert not report.is_busy({"occupied": 1.5})
    assert not report.is_busy({"occupied": None})  # the kernel doesn't say


def test_the_kernel_says_what_the_processors_have_done() -> None:
    occupied = machine.occupied(0.2)
    assert occupied is not None
    assert 0 <= occupied <= 100
