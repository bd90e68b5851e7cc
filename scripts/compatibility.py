"""Write the table of docs/compatibility.md from what the conformance suite has found.

    python scripts/compatibility.py [--check]

With `--check`, nothing is written; the exit code is 1 where the document is not up to date.
"""

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".cache" / "conformance.json"
DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
KINDS = ROOT / ".cache" / "generations.json"
KINDS_BEGIN, KINDS_END = "<!-- kinds -->", "<!-- end of kinds -->"

#: The key of the broker that is installed on the machine.
INSTALLED = "installed"


def heading(broker: str, versions: dict[str, str]) -> str:
    """Its exact version, and what else its name says."""
    generation, comma, rest = broker.partition(",")
    return f"{versions.get(broker, generation)}{comma}{rest}"


def cell(rows: list[dict[str, Any]]) -> str:
    """What the tests of one line have found."""
    if not rows:
        return "–"
    kept = sum(row["kept"] for row in rows)
    return f"all {kept}" if kept == len(rows) else f"**{kept} of {len(rows)}**"


def table(found_out: dict[str, Any]) -> str:
    """The checklist, a line each, and what the incumbent doesn't keep."""
    promises: dict[str, str] = found_out["lines"]
    results: dict[str, list[dict[str, Any]]] = found_out["results"]
    # By heading: the broker and the implementation.
    columns: dict[str, tuple[str, str]] = {}
    for kind in ("incumbent", "ours"):
        for name in sorted(results, key=lambda name: (name != INSTALLED, name)):
            if any(row["implementation"] == kind for row in results[name]):
                columns[f"{kind}, {heading(name, found_out['versions'])}"] = (name, kind)
    lines = [
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for line, promise in promises.items():
        found = [
            cell(
                [
                    row
                    for row in results.get(broker, ())
                    if row["line"] == line and row["implementation"] == kind
                ]
            )
            for broker, kind in columns.values()
        ]
        lines.append(f"| {promise} | {' | '.join(found)} |")
    lines += ["", "What the incumbent doesn't keep of its own promises, test by test:", ""]
    lines += [
        f"- {row['scenario'].replace('_', ' ')}: {row['why_not']}."
        for row in results[INSTALLED]
        if row["implementation"] == "incumbent" and not row["kept"]
    ]
    return "\n".join(lines)


def kinds(rows: list[dict[str, Any]], versions: dict[str, str]) -> str:
    """Which client is answered with which kind of input queue, and why not."""
    brokers = list(dict.fromkeys(row["broker"] for row in rows))
    reasons = list(dict.fromkeys(row["why_not"] for row in rows if row["why_not"]))
    headings = [heading(name, versions) for name in brokers]
    lines = [
        f"| client | `MQ_QUEUE_TYPE` | {' | '.join(headings)} |",
        f"|---|---|{'---|' * len(brokers)}",
    ]
    cells = {(row["what"], row["kind"], row["broker"]): row for row in rows}
    for what, kind in dict.fromkeys((row["what"], row["kind"]) for row in rows):
        found = [cells[what, kind, broker] for broker in brokers]
        words = [
            "yes" if row["works"] else f"no ({reasons.index(row['why_not']) + 1})" for row in found
        ]
        lines.append(f"| {what} | `{kind}` | {' | '.join(words)} |")
    lines += ["", *(f"{number}. {why}." for number, why in enumerate(reasons, 1))]
    return "\n".join(lines)


def put(text: str, begin: str, end: str, content: str) -> str:
    """Replace what is between two marks."""
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def main() -> int:
    if not RESULTS.exists():
        print(f"{RESULTS.relative_to(ROOT)} is missing: run `make test` first", file=sys.stderr)
        return 1
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = DOCUMENT.read_text(encoding="utf-8")
    new = put(text, BEGIN, END, table(results))
    if KINDS.exists():
        rows = json.loads(KINDS.read_text(encoding="utf-8"))
        new = put(new, KINDS_BEGIN, KINDS_END, kinds(rows, results["versions"]))
    if "--check" in sys.argv:
        return int(new != text)
    DOCUMENT.write_text(new, encoding="utf-8")
    print(f"{DOCUMENT.relative_to(ROOT)} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
