"""Write the tables of docs/reliability.md from what the tests and the soak have measured.

    python scripts/reliability.py [--check]

With `--check`, nothing is written; the exit code is 1 where the document is not up to date.
"""

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import json
import re
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECOVERIES = ROOT / ".cache" / "recoveries.json"
SOAK = ROOT / ".cache" / "soak.json"
DOCUMENT = ROOT / "docs" / "reliability.md"

#: How each fault is caused, by the beginning of its name in the tests. One that isn't here is an error,
#: so that no fault comes into the table without an explanation.
CAUSES = {
    "broker: kill -9": "SIGKILL to the Erlang machine; started again on the same data",
    "broker: stop": "SIGTERM, as by a package's upgrade; started again",
    "broker: SIGSTOP for 2.5": "SIGSTOP, then SIGCONT: sockets open, nobody answers",
    "broker: SIGSTOP for 7.5": "the same for longer than a heartbeat of 1 s lets a connection live",
    "broker: SIGSTOP, as `health`": "the same, watched by `python -m <package> health`",
    "broker: down at the start": "the service starts first",
    "cluster of three: the queue's leader": "SIGKILL to the node that leads the quorum queue",
    "cluster of three: the service's node": "SIGKILL to the node that the service is connected to",
    "cluster of three: rolling": "each node stopped and started in turn, waiting for none",
    "connections: closed by force": "`rabbitmqctl close_all_connections`",
    "connections: closed through": "`DELETE /api/connections/…`, as on the management pages",
    "end: SIGTERM in": "the handler takes another second; until the process has ended with 0",
    "end: a second SIGTERM": "the handler takes another 20 s; until the process has ended with 1",
    "end: SIGTERM, 25 s": "the handler takes another 60 s; until the process has ended with 1",
    "handler: acknowledges on": "the connection is dropped while it has the message in hand",
    "handler: acknowledges what": "`basic_ack` of a tag that was never given",
    "handler: asks for a retry": "`RetryMessage(0.1)` at the first delivery",
    "handler: calls sys.exit": "`sys.exit(1)`: the message is dead-lettered, the worker goes on",
    "handler: computes": "3.5 s without letting go of the processor, heartbeat 1 s",
    "handler: declares": "`queue_declare` of its own queue with other arguments",
    "handler: decodes": "400 000 brackets: dead-lettered as too deep",
    "handler: forks": "`os.fork`; the child tries to publish on its parent's channel",
    "handler: hangs": "until the broker's `consumer_timeout` (1.5 s), each time",
    "handler: killed for memory": "1 GB in a container with 128 MiB: SIGKILL by the kernel",
    "handler: kills the process": "`os._exit(139)`; the service is started again at once",
    "handler: outlives": "cut, closed by force, broker restarted: the process goes on",
    "handler: looks for": "a passive `queue_declare`",
    "handler: raises, 5": "a ValueError: the message is dead-lettered",
    "handler: raises, and": "a ValueError, and the error handler a RuntimeError",
    "handler: settles twice": "ack, ack and nack of one tag",
    "handler: sleeps": "`time.sleep(3.5)`, heartbeat 1 s",
    "malformed frames": "a proxy that says them in the broker's name: wrong types, sizes, ends and order",
    "service: SIGKILL, start": "in the middle of a request; another process answers it",
    "start: 64 consumers": "of 64 queues, within one process: until all consume",
    "start: wrong password": "until the process has ended with 1 and one line",
    "start: unknown vhost": "until the process has ended with 1 and one line",
    "start: queue forbidden": "until the process has ended with 1 and one line",
    "start: TLS, wrong": "until the process has ended with 1 and one line",
    "consumer timeout": "`consumer_timeout` of 1 s and a handler that takes longer (406)",
    "half-open": "a proxy that passes nothing on and tells nobody",
    "memory alarm": "`set_vm_memory_high_watermark` below what the broker uses",
    "one connection of four": "a proxy that resets it: one line in the log, and all consume again",
    "one of four on a connection: channel": "an unknown tag acknowledged; the ledger is the others'",
    "one of four on a connection: consumer": "`consumer_timeout` of 1 s; the ledger is the others'",
    "one of four on a connection: permission": "`set_permissions`, twice (403); the ledger is the others'",
    "one of four on a connection: queue": "`queue.delete` by somebody else; the ledger is the others'",
    "process start": "`python -m <package>`, nothing wrong",
    "publisher: broker killed": "SIGKILL, later SIGTERM, while `Publisher` publishes",
    "queue deleted": "`queue.delete` by somebody else: the broker cancels the consumer",
    "quorum queue: its leader killed": "the queue's Erlang process killed within the node",
    "slow link": "a proxy that passes 7 bytes at a time, with 0.5 ms between them",
    "connection ended (RST)": "a proxy that resets the connection",
    "connection ended (FIN)": "a proxy that closes the connection in order",
    "cut after N bytes down": "a proxy that resets after 1 to 6000 bytes from the broker",
    "cut after N bytes up": "a proxy that resets after 1 to 6000 bytes to the broker",
    "200 connections dropped": "one after the other; threads, sockets and memory are counted",
    "1000 connections dropped": "one after the other; threads, sockets and memory are counted",
}
LEDGER = ("sent", "confirmed", "processed", "duplicated", "lost")


def cause(fault: str) -> str:
    """How a fault is caused."""
    found = [text for begin, text in CAUSES.items() if fault.startswith(begin)]
    if len(found) != 1:
        sys.exit(f"scripts/reliability.py: CAUSES doesn't say how {fault!r} is caused")
    return found[0]


def number(value: Any) -> str:
    """A figure in a table."""
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def row(*cells: Any) -> str:
    return f"| {' | '.join(map(number, cells))} |"


def faults(rows: list[dict[str, Any]]) -> str:
    """A line for each fault."""
    lines = [
        row("fault", "how it is caused", "bound, s", "recovery, s", *LEDGER),
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in sorted(rows, key=lambda each: str(each["fault"])):
        name = each["fault"]
        if "dead_letters" in each:
            continue  # see costs()
        figures = [each.get(key) for key in LEDGER]
        bound = float(each["bound"]) if each.get("bound") else None
        lines.append(row(name, cause(name), bound, each.get("recovery"), *figures))
    return "\n".join(lines)


def costs(rows: list[dict[str, Any]]) -> str:
    """What one message costs that kills, hangs or takes long; a line for each way and broker."""
    heads = ("how often", "all answered after, s", "requests", "answered", "twice", "dead letters")
    lines = [row("fault", "how it is caused", *heads), "|---|---|--:|--:|--:|--:|--:|--:|"]
    keys = ("times", "recovery", "sent", "processed", "duplicated", "dead_letters")
    for each in sorted(rows, key=lambda each: str(each["fault"])):
        name = each["fault"]
        if "dead_letters" in each:
            lines.append(row(name, cause(name), *(each.get(key) for key in keys)))
    return "\n".join(lines)


def health(rows: list[dict[str, Any]]) -> str:
    """How fast the health check follows."""
    lines = [row("fault", "says no after, s", "says yes again after, s"), "|---|--:|--:|"]
    for each in sorted(rows, key=lambda each: str(each["fault"])):
        if "health_true" in each:
            lines.append(row(each["fault"], each.get("health_false"), each["health_true"]))
    return "\n".join(lines)


def soak(outcome: dict[str, Any]) -> str:
    """The soak's ledger."""
    lines = [
        f"{outcome['faults']} faults in {outcome['seconds']:.0f} s on RabbitMQ {outcome['broker']}, "
        f"`SEED={outcome['seed']} FAULTS={outcome['faults']}`:",
        "",
        row("", *outcome["ledger"]),
        "|---|" + "--:|" * len(outcome["ledger"]),
        row("messages", *outcome["ledger"].values()),
        "",
        "Of the service's process, looked at after each fault: "
        + ", ".join(
            f"{name} {first} at first, {highest} at most"
            for name, (first, highest) in outcome["service"].items()
        )
        + ".",
        "",
        row("fault", "times", "recovery, median, s", "longest, s"),
        "|---|--:|--:|--:|",
    ]
    for name, taken in sorted(outcome["recoveries"].items()):
        lines.append(row(name, len(taken), median(taken), max(taken)))
    return "\n".join(lines)


def main() -> int:
    text = new = DOCUMENT.read_text(encoding="utf-8")
    blocks: dict[str, str] = {}
    if RECOVERIES.exists():
        rows = json.loads(RECOVERIES.read_text(encoding="utf-8"))
        blocks |= {"faults": faults(rows), "health": health(rows), "costs": costs(rows)}
    if SOAK.exists():
        blocks["soak"] = soak(json.loads(SOAK.read_text(encoding="utf-8")))
    for name, block in blocks.items():
        between = re.compile(f"(<!-- {name} -->).*?(<!-- end of {name} -->)", re.DOTALL)
        new, count = between.subn(lambda found, b=block: f"{found[1]}\n\n{b}\n\n{found[2]}", new)  # type: ignore[misc]
        if count != 1:
            sys.exit(f"{DOCUMENT.relative_to(ROOT)}: there is no place for {name!r}")
    if "--check" in sys.argv:
        return int(new != text)
    DOCUMENT.write_text(new, encoding="utf-8")
    missing = [
        f"{path.relative_to(ROOT)} is missing: run `{command}` for its tables"
        for path, command in ((RECOVERIES, "make test"), (SOAK, "make soak"))
        if not path.exists()
    ]
    print("\n".join([f"{DOCUMENT.relative_to(ROOT)} is written", *missing]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
