"""Job 7: the decoder alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..contenders import OURS
from ..job import Job, Metric, Values
from ..lab import Lab
from ..service import PACKAGE

LABELS = {
    OURS: "**the generated service's decoder**",
    "literal_eval": "`ast.literal_eval`",
    "eval": "`eval`, which runs what it is sent",
    "json": "`json.loads` of the same data as a JSON object",
}
PROGRAM = Path(__file__).with_name("decoder_program.py")
CASES = (
    "reference request",
    "quotes and escapes",
    "nested",
    "64 KiB of text",
    "list of 1000 numbers",
)


class Decoder(Job):
    number = 7
    slug = "decoder"
    title = "The decoder alone"
    text = (
        "µs of CPU from a body's bytes to a dict, base64 included. All but the last read Neon's form, "
        "`base64(json(str(dict)))`; the last reads `base64(json(dict))`, which Neon's peers don't send, "
        "and is there as a bound. A round is the best of six repetitions in a process of its own."
    )
    metrics = (Metric("cpu_us", "CPU µs per body", 2, "lower", plot=True),)
    reference = "literal_eval"

    def cases(self, quick: bool) -> Sequence[str]:
        return CASES[:1] if quick else CASES

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return tuple(LABELS)

    def rounds(self, case: str, quick: bool) -> int:
        return super().rounds(case, quick) if case == CASES[0] else 1 if quick else 2

    def label(self, row: str) -> str:
        return LABELS[row]

    def peer(self, row: str) -> str | None:
        return "service"

    def reason(self, case: str, first: str) -> str:
        if first != "json":
            return ""
        return (
            "JSON is read by the C scanner alone. Ours uses the same scanner, after it has made JSON "
            "of Python's literal, which it can't do without looking at the text once more."
        )

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        package = lab.service.project / "src" / PACKAGE
        python = lab.environment("service").program
        done = subprocess.run(
            [python, PROGRAM, str(package), row, case],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-200:])
        return {"cpu_us": json.loads(done.stdout)}
