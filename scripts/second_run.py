"""Run the tests again that have failed beside others, alone and one after the other.

    python3 scripts/second_run.py

On a busy machine a few of thousands of tests wait for something that comes too late. `make test` leaves
word of what has failed; if these are few, they get a second run. The exit code is 0 where each has
passed then. Whatever else ended the tests, or no word at all, stays a failure. Standard library only.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: As `tests/outcome.py` has them.
OUTCOME = Path(".cache", "outcome.json")
#: Tests that may fail in the first run. More of them aren't the machine's fault.
MOST = 15
#: pytest's exit code where tests have failed, and nothing else.
_FAILED = 1


def say(text: str) -> None:
    print(f"[second run] {text}", flush=True)


def read(root: Path) -> dict[str, Any]:
    """What came of the last run; empty where it has left no word."""
    try:
        found: dict[str, Any] = json.loads((root / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def why_not(first: dict[str, Any]) -> str:
    """Why there is no second run; empty where there is one."""
    if not first:
        return "the tests have left no word: they didn't run to their end"
    if first["exit"] != _FAILED:
        return f"the tests ended with exit code {first['exit']}, which isn't that of failed tests"
    if first["died"]:
        return f"a process has died in {', '.join(first['died'])}"
    if not 0 < len(first["failed"]) <= MOST:
        return f"{len(first['failed'])} tests have failed; it is for 1 to {MOST}"
    return ""


def again(root: Path, tests: list[str]) -> bool:
    """Run these, and nothing else; whether all have passed."""
    # A file of arguments, one a line: an id may hold whatever a shell would take apart.
    words = root / OUTCOME.with_name("again.txt")
    words.write_text("\n".join(tests) + "\n", encoding="utf-8")
    arguments = f"PYTEST_ARGS=@{words.relative_to(root)}"
    code = subprocess.run(["make", "test", "WORKERS=0", arguments], cwd=root).returncode
    second = read(root)
    return code == 0 and second.get("exit") == 0 and not second["skipped"]


def main(root: Path = ROOT) -> int:
    first = read(root)
    if reason := why_not(first):
        say(f"none: {reason}")
        return 1
    failed = first["failed"]
    say(f"{len(failed)} tests have failed beside others; each again, alone:")
    for test in failed:
        say(f"  {test}")
    if not again(root, failed):
        say("not all of them have passed alone: a failure")
        return 1
    say("no failure: beside others these have failed, and alone each has passed:")
    for test in failed:
        say(f"  {test}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
