"""python -m bench [--quick] [--check] [--fresh] [--jobs 1,2] [--rounds 1] [--accept] [--report]

Measures what is missing of the last run, or begins a new one; writes docs/benchmarks.md when all of
it is there. With --check it measures what is compared with the committed ratios, and writes no page.
Exit code 1: a ratio got worse; 2: it can't be done here; 130: interrupted.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the rest, whose loading it covers; mypy knows it by its bare name.
    __import__("scripts.interrupts")

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from . import machine, report, service, targets
from .environment import TEMPLATE, cache
from .job import Job
from .jobs import JOBS
from .lab import Lab
from .results import Results
from .run import keys, make_environments, measure, say

DOCUMENT = TEMPLATE / "docs" / "benchmarks.md"


def options() -> argparse.Namespace:
    """The command line; QUICK=1, CHECK=1, ACCEPT=1 and ROUNDS=N in the environment are ``--quick`` and so on."""
    quick, check, accept = (
        os.environ.get(name, "") not in ("", "0") for name in ("QUICK", "CHECK", "ACCEPT")
    )
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, side by side.")
    parser.add_argument("--quick", action="store_true", default=quick, help="the short form")
    parser.add_argument(
        "--check", action="store_true", default=check, help="only compare with the baseline"
    )
    parser.add_argument("--fresh", action="store_true", help="forget an interrupted run")
    parser.add_argument("--jobs", default="", metavar="1,2", help="only these, for trying out")
    parser.add_argument(
        "--rounds",
        type=int,
        default=int(os.environ.get("ROUNDS") or 100),
        metavar="N",
        help="at most so many of each measurement, for trying out",
    )
    parser.add_argument(
        "--accept",
        action="store_true",
        default=accept,
        help="take this run's ratios as the baseline",
    )
    parser.add_argument(
        "--report", action="store_true", help="only write the page from its raw data"
    )
    return parser.parse_args()


def main() -> int:
    """Run; returns the exit code."""
    chosen = options()
    wanted = {int(number) for number in chosen.jobs.split(",") if number}
    jobs = [job for job in JOBS if not wanted or job.number in wanted]
    if chosen.check:
        chosen.quick = False  # which has other counts and other tolerances
        jobs = [
            job for job in jobs if any(job.number == each.figure.job for each in targets.CHECKS)
        ]
    if chosen.report:
        raw = DOCUMENT.with_suffix("") / "results.jsonl"
        results = Results(raw, {}, keep=True)
        return finish(results, DOCUMENT, chosen, jobs)
    if not Path("/proc/self/schedstat").exists():
        say("bench: needs Linux's /proc/<pid>/schedstat for the accounting of processor time")
        return 2
    folder = cache() / ("check" if chosen.check else "quick" if chosen.quick else "full")
    raw = folder / "results.jsonl"
    if chosen.fresh or chosen.check:
        raw.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    say(f"[bench] rendering the service into {folder}")
    service.render(folder)
    lab = Lab(folder)
    lab.quick = chosen.quick
    plan = [key for job in jobs for key in keys(job, chosen.quick) if key[3] < chosen.rounds]
    if chosen.check:
        plan = [key for key in plan if any(each.needs(*key[:3]) for each in targets.CHECKS)]
    make_environments(lab, jobs, plan)
    lab.service.compile(lab.environment("service").program)
    occupied = machine.occupied(3.0)  # before the broker runs
    with lab:
        head = machine.describe(lab.service)
        head["occupied"] = occupied
        head["rabbitmq"] = lab.broker.installation.version
        head["fingerprint"] += f"-{head['rabbitmq']}"
        head["versions"] = machine.versions(lab.environments)
        results = Results(raw, head)
        measure(lab, jobs, plan, results, chosen.quick)
    say(f"[bench] measured for {(time.monotonic() - began) / 60:.1f} min")
    if chosen.check:
        return compare(results)
    if chosen.quick or wanted:
        return finish(results, folder / "benchmarks.md", chosen, jobs)
    code = finish(results, DOCUMENT, chosen, jobs)
    shutil.move(raw, folder / "finished.jsonl")  # the next run begins anew
    return code


def finish(results: Results, page: Path, chosen: argparse.Namespace, jobs: list[Job]) -> int:
    """Write the page and compare with the baseline."""
    page.parent.mkdir(exist_ok=True)
    if chosen.accept:  # before the page, which shows both
        targets.accept(results)
        say(f"[bench] written: {targets.BASELINE}")
    written = report.Report(page, results, jobs, chosen.quick)
    written.write()
    for line in written.targets():
        say(line)
    say(f"[bench] written: {page}")
    if chosen.quick and results.path.parent != page.with_suffix(""):
        results.path.unlink()
    return worse(results, 2.0 if chosen.quick else 1.0)


def compare(results: Results) -> int:
    """Only say how the ratios are."""
    for line in report.checks(results):
        say(line)
    code = worse(results, 1.0)
    if code and report.is_busy(results.run):
        say(
            f"[bench] the machine had other work ({results.run['occupied']:g} % of its processors' time): rates, "
            "starts and many queues suffer from that more than from most changes; check again when it is idle"
        )
    return code


def worse(results: Results, loose: float) -> int:
    """Say what has got worse; returns the exit code."""
    lines = list(targets.regressions(results, loose))
    for line in lines:
        say(f"[bench] worse than before: {line}")
    return int(bool(lines))


def interrupted(_number: int, _frame: object) -> None:
    """End in good order, as on Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("\n[bench] interrupted; the same command goes on from here")
        sys.exit(130)
    except (service.RenderFailed, RuntimeError, OSError) as error:
        say(f"bench: {error}")
        sys.exit(2)
