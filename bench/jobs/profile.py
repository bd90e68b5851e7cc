"""Job 14: where the time of the reference job goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

from .. import flame
from ..contenders import BY_NAME, GO, OURS, RAW, C
from ..job import Job, Metric, Values
from ..lab import REPLIES, START, Lab, at_rest
from ..results import Results
from ..sampling import HANDOVER, KERNEL, LOCKS, Sampling
from ..service import QUEUE
from ..wire import Client

#: Seconds that samples are taken: of the generated service, and of the others.
OURS_S, OTHERS_S = 6, 2
#: Requests, more than each handles until then; how many of them differ; how many come before.
DISTINCT, WARM = 2_000, 500
COUNTS = {OURS: 120_000, RAW: 15_000, C: 60_000, GO: 60_000}
#: Seconds that the broker has for an answer: it deletes long queues.
PATIENCE = 60.0
#: How a kind of work is told by a box's name: by the innermost box that one of these begins, or is in.
_READING = "reading the stream, and pika's objects"
_DECODING, _ENCODING = "decoding requests", "encoding replies"
_SENDING = "publishing and acknowledging: frames, and when they leave"
_WORKING = "from a delivery to its settlement: workers, handler"
_LOCKING = "locks, queues, the interpreter's lock"
_SWITCHING = "kernel: waiting, waking and switching threads"
_CALLING = "kernel: sending and receiving"
_OTHER = "the rest"
COLOURS = {
    _DECODING: "#1f7fe0",
    _ENCODING: "#12a594",
    _READING: "#8c7b6b",
    _SENDING: "#b06fd8",
    _WORKING: "#d9822b",
    _LOCKING: "#d64545",
    _SWITCHING: "#a08a00",
    _CALLING: "#5b8c3a",
    _OTHER: "#6e7b8a",
}
_SWITCHES = ("futex", "epoll", "poll", "select", "sched_yield", "nanosleep", "clock_nanosleep")
_CALLS = ("send", "recv", "read", "write")
#: A frame of ours, from the inside to the outside: the first that fits says what it is.
_PLACES = (
    ("payload/body", _DECODING),
    ("payload/literal", _DECODING),
    ("payload/jsontext", _DECODING),
    ("Request.decode", _DECODING),
    ("payload/encoding", _ENCODING),
    ("Request.encode_reply", _ENCODING),
    ("wire/deliveries", _READING),
    ("wire/properties", _READING),
    ("Transport._on_readable", _READING),
    ("Transport._consume", _READING),
    ("(pika/", _READING),
    ("wire/", _SENDING),
    ("connection/link", _SENDING),
    ("consumer/opened/", _SENDING),
    ("consumer/outbox/", _SENDING),
    ("consumer/channel/", _SENDING),
    ("consumer/", _WORKING),
    ("handlers/", _WORKING),
    ("payload/", _WORKING),
    ("service.py", _WORKING),
)


def kind(frames: Sequence[str]) -> str:
    """What a stack is counted as.

    :param frames: from the outermost on, the thread first
    """
    innermost = frames[-1]
    if innermost.startswith(KERNEL):
        call = innermost.removeprefix(KERNEL)
        if call.startswith(_CALLS):
            return _CALLING
        return _SWITCHING if call.startswith(_SWITCHES) else _OTHER
    if innermost in (HANDOVER, LOCKS):
        return _LOCKING
    for frame in reversed(frames):
        for place, what in _PLACES:
            if place in frame:
                return what
    return _OTHER


class WhereTheTimeGoes(Job):
    number = 14
    slug = "profile"
    title = "Where the time goes"
    text = (
        "The reference job, with samples taken. Debian's `perf` says a thousand times a second what each "
        "thread does on a processor: which system call, a lock, or the interpreter; for the interpreter's "
        "part `py-spy` says which Python function it was in. Both leave the process running. System calls, "
        "and switches to another thread or process (voluntary, because a thread waits, or involuntary), are "
        "those that the kernel counts. Beside it the bare loop, C and Go, of which the kernel's part is "
        "what no faster language takes away."
    )
    metrics = (
        Metric("cpu_us", "CPU µs per request", 1, "lower"),
        Metric("kernel_us", "of these in the kernel", 1, "lower"),
        Metric("calls", "system calls per request", 2, "lower"),
        Metric("waits", "voluntary switches per request", 3, "lower"),
        Metric("forced", "involuntary switches per request", 3, "lower"),
    )

    def cases(self, quick: bool) -> Sequence[str]:
        return () if quick else ("",)

    def rows(self, case: str, quick: bool) -> Sequence[str]:
        return (OURS, RAW, C, GO)

    def rounds(self, case: str, quick: bool) -> int:
        return 1

    def reason(self, case: str, first: str) -> str:
        return "what the time goes to is in the table below."

    def needs(self, row: str) -> Sequence[str]:
        return (*super().needs(row), "profiler")

    def measure(self, lab: Lab, case: str, row: str, quick: bool) -> Values:
        contender = BY_NAME[row]
        seconds = OURS_S if row == OURS else OTHERS_S
        spy = lab.environment("profiler").program.with_name("py-spy") if row == OURS else None
        with Client(lab.address, PATIENCE) as client, lab.client() as reader:
            lab.prepare(client, contender)
            stock = list(lab.bodies(contender, DISTINCT))
            client.fill(QUEUE, islice(cycle(stock), COUNTS[row]), consumed=True)
            reader.consume(REPLIES)
            with lab.start(contender) as process:
                reader.count_replies(WARM, time.monotonic() + START)
                seen, _ = at_rest(process, reader)
                with Sampling(process, lab.folder, seconds, spy, lab.service.project) as sampling:
                    used, before = process.cpu(), process.switches()
                    process.thaw()
                    reader.count_replies(COUNTS[row], time.monotonic() + seconds)
                    count, after = at_rest(process, reader)
                    left = process.switches()
                    process.thaw()
                    profile = sampling.end()
                process.check()
        count -= seen
        if not count:
            raise TimeoutError(f"no reply in {seconds} s")
        found = {"cpu_us": (after - used) / count * 1e6, "requests": count}
        found["waits"], found["forced"] = ((left[i] - before[i]) / count for i in (0, 1))
        if profile.calls is not None:
            found["calls"] = profile.calls / count
            kernel = sum(share for stack, share in profile.stacks.items() if f";{KERNEL}" in stack)
            found["kernel_us"] = kernel * found["cpu_us"]
        return {**found, **(profile.stacks if row == OURS else {})}

    def own(self, results: Results, folder: Path) -> Iterator[str]:
        stacks = {}
        for name in results.names(self.number, "", OURS):
            if ";" in name:
                stacks[name] = results.values(self.number, "", OURS, name)[0]
        whole = results.spread(self.number, "", OURS, "cpu_us")
        if not stacks or not whole:
            return
        yield f"What the {whole.median:.1f} µs of the generated service go to:"
        yield ""
        yield from table(stacks, whole.median)
        yield ""
        title = f"One request of the generated service: {whole.median:.1f} µs of CPU"
        root = flame.tree(stacks, "all threads")
        svg = flame.picture(
            title, root, lambda frames: COLOURS[kind(frames[1:] or frames)], COLOURS
        )
        (folder / "flame.svg").write_text(svg, encoding="utf-8")
        yield (
            "By function, as a flame graph: what is on top of a box is what it calls; a box is as wide as "
            "its share. Opened by itself, the picture says each box's name and share where the pointer is."
        )
        yield ""
        yield f"![{title}]({folder.name}/flame.svg)"
        yield ""


def table(stacks: Mapping[str, float], whole: float) -> Iterator[str]:
    """µs and share of each kind of work, and the functions that most of it is in."""
    shares: dict[str, float] = defaultdict(float)
    leaves: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for stack, share in stacks.items():
        frames = stack.split(";")
        what = kind(frames)
        shares[what] += share
        leaf = next((each for each in reversed(frames) if each != HANDOVER), "")
        leaves[what][leaf.partition(" (")[0].removeprefix(KERNEL)] += share
    total = sum(shares.values())
    yield "| | µs | share | most of it in |"
    yield "|---|---:|---:|---|"
    for what, share in _largest(shares):
        most = ", ".join(
            f"`{leaf}` {part / total * whole:.1f}" for leaf, part in _largest(leaves[what])[:4]
        )
        yield f"| {what} | {share / total * whole:.1f} | {share / total:.0%} | {most} |"


def _largest(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda each: -each[1])
