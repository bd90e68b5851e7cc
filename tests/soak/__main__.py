"""Cause random faults under constant load, and see whether anything is lost.

    SEED=7 FAULTS=200 python -m soak

The same seed brings the same faults in the same order. Prints a line for each, and the ledger at the
end; exits with 1 if a confirmed message is lost, a duplicate isn't marked as redelivered, or the
service doesn't come back.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the rest, whose loading it covers; mypy knows it by its bare name.
    __import__("scripts.interrupts")

import functools
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from baked import TEMPLATE
from connector.functional.broker import Broker
from connector.functional.proxy import Proxy
from local import NoServer

from .faults import Lab, Size, plan

#: Seconds within which the service must process new messages again after a fault.
BOUND = 30.0
#: Where the ledger is kept, for the tables in docs/.
RESULTS = TEMPLATE / ".cache" / "soak.json"


def recovered(lab: Lab) -> bool:
    """Wait until something is processed that was sent from now on."""
    mark = lab.ledger.sent
    deadline = time.monotonic() + BOUND
    while lab.ledger.highest <= mark:
        if time.monotonic() > deadline or lab.service_has_ended:
            return False
        time.sleep(0.005)
    return True


def soak(lab: Lab, seed: int, count: int, sizes: list[Size]) -> tuple[dict[str, list[float]], str]:
    """Cause the faults; returns each kind's recoveries in seconds, and what went wrong.

    :param sizes: gets what the service occupies after each
    """
    recoveries: dict[str, list[float]] = {}
    for number, (kind, own_seed) in enumerate(plan(seed, count), 1):
        rng = random.Random(own_seed)
        time.sleep(rng.uniform(0.1, 0.6))
        try:
            kind.cause(lab, rng)
        except AssertionError as error:
            return recoveries, f"{kind.name}: {error}"
        over = time.monotonic()
        well = recovered(lab)
        took = time.monotonic() - over
        recoveries.setdefault(kind.name, []).append(took)
        ledger = lab.ledger
        print(
            f"{number:4}/{count}  {kind.name:38} {took:6.2f} s   "
            f"confirmed {len(ledger.confirmed)}, redelivered {ledger.redelivered}, "
            f"not processed yet {len(ledger.lost)}",
            flush=True,
        )
        if not well:
            what = "has ended" if lab.service_has_ended else f"isn't back within {BOUND:g} s"
            return recoveries, f"the service {what}"
        sizes.append(lab.size)
        if not sizes[0].flat(sizes[-1]):
            return recoveries, f"the service has grown: {sizes[0]}, then {sizes[-1]}"
        if ledger.unmarked:
            return recoveries, f"duplicates that aren't marked: {ledger.unmarked[:10]}"
    return recoveries, ""


def settle(lab: Lab) -> str:
    """Let the service catch up; returns what it has lost, if anything."""
    lab.ledger.stop_sending()
    try:
        lab.ledger.catch_up(BOUND)
    except AssertionError:
        return f"lost: {sorted(lab.ledger.lost)[:20]}"
    finally:
        lab.ledger.stop()
    return ""


def report(outcome: dict[str, Any]) -> None:
    """Print the ledger."""
    print(f"\n{'fault':40} times   recovery: median, longest")
    for name, taken in sorted(outcome["recoveries"].items()):
        print(f"{name:40} {len(taken):5}   {median(taken):8.2f} s {max(taken):8.2f} s")
    print(f"\n{outcome['faults']} faults in {outcome['seconds']:.0f} s, SEED={outcome['seed']}")
    for name, figure in outcome["ledger"].items():
        print(f"{name:>36}: {figure}")
    for name, (first, highest) in outcome["service"].items():
        print(f"{name:>36}: {first} at first, {highest} at most")


def main() -> int:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    count = int(os.environ.get("FAULTS") or 200)
    print(f"soak: {count} faults, SEED={seed}", flush=True)
    try:
        broker = Broker()
    except NoServer as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, broker, Proxy(broker.port) as proxy:
        lab = Lab(broker, proxy, Path(name))
        try:
            lab.start_service()
            lab.ledger.start()
            wrong = "" if recovered(lab) else "the service never began"
            recoveries: dict[str, list[float]] = {}
            sizes = [lab.size]
            if not wrong:
                recoveries, wrong = soak(lab, seed, count, sizes)
            wrong = settle(lab) or wrong
            if wrong:
                print(f"\nthe end of the service's log:\n{lab.log.read_text()[-3000:]}")
        finally:
            lab.close()
        outcome = {
            "faults": sum(map(len, recoveries.values())),
            "seed": seed,
            "seconds": time.monotonic() - began,
            "broker": broker.installation.version,
            "recoveries": recoveries,
            "ledger": lab.ledger.figures,
            "service": {
                name: (first, highest)
                for (name, first), highest in zip(
                    vars(sizes[0]).items(),
                    vars(functools.reduce(Size.largest, sizes)).values(),
                    strict=True,
                )
            },
        }
    report(outcome)
    if wrong or lab.ledger.unmarked:
        print(f"\nsoak: {wrong or 'unmarked duplicates'}; again with SEED={seed} FAULTS={count}")
        return 1
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
