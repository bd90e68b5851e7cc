"""The process in which the scenarios of one implementation run, one after the other.

    python subject.py incumbent|ours

It reads a JSON object a line, ``{"scenario", "broker"}``, and answers each with a line that begins with
``RESULT``. In between it may ask for something to be done to the broker with a line ``PLEASE``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
#: As in `baked`, which the incumbent's environment lacks the packages for.
CONNECTOR = (
    TESTS.parent
    / "<<cookiecutter.service_slug>>"
    / "src"
    / "<<cookiecutter.package_name>>"
    / "mq_connector"
)

#: Seconds that the incumbent is waited for where it doesn't keep its promise.
_SHORT = 5.0


def find_connector() -> None:
    """Make the tests and the vendored connector importable."""
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(CONNECTOR.parent), str(TESTS)]


def ask_host(what: str) -> None:
    """Have the other side of the pipe do something."""
    print(f"PLEASE {what}", flush=True)
    sys.stdin.readline()


def main(kind: str) -> None:
    find_connector()
    logging.disable(logging.CRITICAL)
    import waiting

    from conformance.checklist import scenarios
    from conformance.lab import Lab

    known = scenarios()
    patience = waiting.patience
    for line in iter(sys.stdin.readline, ""):
        task = json.loads(line)
        lab = Lab(kind, task["broker"], ask_host)
        trouble = ""
        scenario = known[task["scenario"]]
        # What is known not to come isn't waited for that long.
        fails = kind == "incumbent" and scenario.incumbent_fails
        waiting.patience = _SHORT if fails else patience
        try:
            scenario.function(lab)
        except BaseException:  # also what an assertion or a SystemExit has to say
            trouble = traceback.format_exc()
        print("RESULT " + json.dumps(trouble), flush=True)
        lab.close()


if __name__ == "__main__":
    main(sys.argv[1])
    if sys.argv[1] == "incumbent":
        os._exit(0)  # its threads wouldn't end
