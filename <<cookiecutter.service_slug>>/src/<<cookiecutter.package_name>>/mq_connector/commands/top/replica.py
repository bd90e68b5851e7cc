"""What one process of the service tells at its port of metrics, and what has changed since it was asked before."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ...errors import printable
from ...logs import text_of

#: Seconds that a process gets to answer, and bytes of an answer that are read.
_WITHIN, _MOST = 2.0, 4 * 1024 * 1024
#: A line of Prometheus' text format, and a label in it (prometheus.io/docs/instrumenting/exposition_formats).
_VALUE = r'"((?:[^"\\]|\\.)*)"'
_LABEL = re.compile(rf"(\w+)={_VALUE}")
_LINE = re.compile(
    rf"(?P<name>(?:mq|process)_\w+)(?:\{{(?P<labels>(?:\w+={_VALUE},?)*)\}})? (?P<value>[^ ]+)"
)
_ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class Address(NamedTuple):
    """Where a process of the service is asked."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Failure(NamedTuple):
    """The last line of what a callback has raised."""

    time: str
    queue: str
    what: str
    message_id: str


@dataclass
class Sample:
    """What a process has told at one time (`time.monotonic`)."""

    at: float
    #: By name, and by the queue where there is one.
    values: dict[tuple[str, str], float] = field(default_factory=dict)
    #: Of histograms, each bound (seconds) with how many durations don't exceed it; by name and queue.
    buckets: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    version: str = ""

    def value(self, name: str, queue: str = "") -> float:
        """A number; 0 where there is none."""
        return self.values.get((name, queue), 0.0)

    @property
    def queues(self) -> list[str]:
        """The names of the queues that it consumes."""
        return [queue for name, queue in self.values if name == "mq_consumer_up"]


class Replica:
    """One process, asked again and again."""

    def __init__(self, address: Address) -> None:
        self.address = address
        #: The last two; None before, and while it doesn't answer.
        self.before: Sample | None = None
        self.now: Sample | None = None
        #: Why it doesn't answer.
        self.trouble = ""
        self.failures: list[Failure] = []

    def ask(self) -> None:
        """Ask for everything; what goes wrong is noted in `trouble`."""
        try:
            status, page = _get(self.address, "/metrics")
            if status != 200:
                raise OSError(f"it answers {status}")
            sample = parse(page, time.monotonic())
            if not sample.queues and not sample.version:
                raise OSError("it isn't a service of this connector's")
            self.before, self.now, self.trouble = self.now, sample, ""
            self.failures = list(_failures(self.address))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.before = self.now = None
            self.trouble = printable(getattr(error, "strerror", None) or text_of(error))

    def rate(self, name: str, queue: str) -> float | None:
        """How much a number grows in a second; None while that isn't known."""
        if self.before is None or self.now is None:
            return None
        grown = self.now.value(name, queue) - self.before.value(name, queue)
        return None if grown < 0 else grown / (self.now.at - self.before.at)  # a new process

    def grown(self, name: str, queue: str) -> list[tuple[float, float]]:
        """The buckets of a histogram, of what has come since the process was asked before."""
        if self.before is None or self.now is None:
            return []
        before = dict(self.before.buckets.get((name, queue), []))
        now = self.now.buckets.get((name, queue), [])
        return [(bound, max(0.0, count - before.get(bound, 0.0))) for bound, count in now]


def parse(page: str, at: float) -> Sample:
    """Read Prometheus' text format, as far as it is about us; what isn't in order is left out.

    :param at: when the page was fetched (`time.monotonic`)
    """
    sample = Sample(at)
    for line in page.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        name, labels = found["name"], _labels(found["labels"] or "")
        try:
            value = float(found["value"])
        except ValueError:
            continue
        queue = labels.get("queue", "")
        if name == "mq_build_info":
            sample.version = labels.get("version", "") or "unknown"
        elif "le" in labels:
            bound = float("inf") if labels["le"] == "+Inf" else _number(labels["le"])
            buckets = sample.buckets.setdefault((name.removesuffix("_bucket"), queue), [])
            buckets.append((bound, value))
        else:
            sample.values[name, queue] = value
    return sample


def quantile(share: float, buckets: list[tuple[float, float]]) -> float | None:
    """Seconds that so large a share of the durations doesn't exceed, as Prometheus' `histogram_quantile` has it.

    :param share: from 0 to 1
    :param buckets: bounds in seconds, the lowest first, with how many durations don't exceed each
    :returns: None without any durations
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == float("inf") or count == below:
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower


def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name, one for each replica where it stands for several.

    :raises OSError: there is no such name
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Of one kind only: a process answers at both, and would be there twice.
    family = socket.AF_INET if any(each[0] == socket.AF_INET for each in found) else found[0][0]
    hosts = sorted({str(each[4][0]) for each in found if each[0] == family})
    return [Address(each, port) for each in hosts]


def _get(address: Address, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_WITHIN)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(_MOST).decode("utf-8", "replace")
    finally:
        connection.close()


def _failures(address: Address) -> Iterator[Failure]:
    """What it tells to its own machine only."""
    status, page = _get(address, "/errors")
    errors = json.loads(page) if status == 200 else []
    for each in errors if isinstance(errors, list) else []:
        if isinstance(each, dict):
            words = {key: printable(str(value)) for key, value in each.items() if value}
            what = f"{words.get('exception', '')}: {words.get('text', '')}"
            yield Failure(
                words.get("time", ""), words.get("queue", ""), what, words.get("message_id", "")
            )


def _labels(text: str) -> dict[str, str]:
    return {
        name: re.sub(r"\\.", lambda found: _ESCAPED.get(found[0], found[0]), value)
        for name, value in _LABEL.findall(text)
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")
