"""Raw results: one JSON line for each measurement, written as soon as it is there."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Key = tuple[int, str, str, int]


@dataclass(frozen=True)
class Spread:
    """What several rounds gave."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))


class Results:
    """A file of measurements; opened again it knows what is there already.

    :param run: describes the run; a file of another `fingerprint` is begun anew
    :param keep: only read it, whatever its run was
    """

    def __init__(self, path: Path, run: Mapping[str, Any], keep: bool = False) -> None:
        self.path = path
        self.run = dict(run)
        self.records: dict[Key, dict[str, Any]] = {}
        if path.exists():
            self._load(keep)
        if not self.records and not keep:
            self._write()

    def _load(self, keep: bool) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        if not lines:
            return
        head = json.loads(lines[0])["run"]
        if not keep and head["fingerprint"] != self.run["fingerprint"]:
            return
        self.run = head
        is_whole = True
        for line in lines[1:]:
            try:
                self._put(json.loads(line))
            except ValueError:
                is_whole = False
        if not is_whole and not keep:  # or the next record would be lost with what was cut off
            self._write()

    def _write(self) -> None:
        """Replace the file: whoever reads it meanwhile has the one of before, or this one."""
        texts = [{"run": self.run}, *self.records.values()]
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text("".join(json.dumps(each) + "\n" for each in texts), encoding="utf-8")
        new.replace(self.path)

    def _put(self, record: dict[str, Any]) -> None:
        self.records[record["job"], record["case"], record["row"], record["round"]] = record

    def __contains__(self, key: Key) -> bool:
        return key in self.records

    def add(self, key: Key, values: Mapping[str, float], error: str | None = None) -> None:
        """Note a measurement, or why there is none."""
        job, case, row, number = key
        record: dict[str, Any] = {"job": job, "case": case, "row": row, "round": number}
        record["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if error is None:
            record["values"] = {name: float(f"{value:.6g}") for name, value in values.items()}
        else:
            record["error"] = error
        self._put(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def values(self, job: int, case: str, row: str, metric: str) -> dict[int, float]:
        """A metric by round."""
        return {
            record["round"]: record["values"][metric]
            for record in self._of(job, case, row)
            if metric in record.get("values", {})
        }

    def names(self, job: int, case: str, row: str) -> list[str]:
        """All metrics of a row, in the order in which they were first measured."""
        found = (record.get("values", {}) for record in self._of(job, case, row))
        return list(dict.fromkeys(name for values in found for name in values))

    def errors(self, job: int, case: str, row: str) -> list[str]:
        """Why there are no values."""
        return [record["error"] for record in self._of(job, case, row) if "error" in record]

    def spread(self, job: int, case: str, row: str, metric: str) -> Spread | None:
        """Median and extremes over the rounds; None without any."""
        values = self.values(job, case, row, metric)
        return Spread.of(list(values.values())) if values else None

    def ratio(self, job: int, case: str, row: str, reference: str, metric: str) -> Spread | None:
        """A row's metric over another row's, pair by pair within each round."""
        return _ratio(
            self.values(job, case, row, metric), self.values(job, case, reference, metric)
        )

    def growth(self, job: int, case: str, since: str, row: str, metric: str) -> Spread | None:
        """A row's metric in one case over that in another, within each round."""
        return _ratio(self.values(job, case, row, metric), self.values(job, since, row, metric))

    def has(self, job: int, case: str) -> bool:
        """Whether anything of a case was tried."""
        return any(key[:2] == (job, case) for key in self.records)

    def _of(self, job: int, case: str, row: str) -> Iterator[dict[str, Any]]:
        for key, record in self.records.items():
            if key[:3] == (job, case, row):
                yield record


def _ratio(values: Mapping[int, float], others: Mapping[int, float]) -> Spread | None:
    """Of those that share a round; None without any."""
    pairs = [value / others[number] for number, value in values.items() if others.get(number)]
    return Spread.of(pairs) if pairs else None
