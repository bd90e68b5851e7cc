"""Where a process's processor time goes: samples of the kernel's and of the interpreter's stacks.

Debian's `perf` says what each thread does on a processor: which system call, which lock, or the
interpreter. What Python function that is, `py-spy` reads off the thread that holds the interpreter's
lock, without stopping the process. What `perf` counts for the interpreter is shared out by that.
"""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .compiled import install
from .process import Process

#: Samples of each second. The second one is odd, so that it keeps no step with any clock.
_SPY_RATE, _PERF_RATE = 250, 997
#: Seconds from a profiler's word that it begins until it does, and that it may take to write down what it has.
_BEGIN, _PATIENCE = 0.1, 30
#: How stacks begin below the thread where they aren't Python's.
KERNEL, LOCKS, INTERPRETER = "kernel: ", "locks in C", "the interpreter"
#: The innermost box of a stack whose line takes a lock or hands something to another thread.
HANDOVER = "lock or queue"
_HANDOVER = re.compile(r"lock\b|inbox\.(get|put)|\.(acquire|release|wait|notify|notify_all)\(")
_LOCKS = re.compile(r"\w+_gil\b|(__)?(pthread_|sem_|new_sem_|PyThread_|__lll_|__futex|___futex)")
_CALL = re.compile(r"__(?:x64|arm64)_sys_(\w+)")
_FRAME = re.compile(r"(?P<name>.+) \((?P<file>[^()]+?)(?::(?P<line>\d+))?\)")
#: Frames that every thread begins with.
_FOREIGN = ("threading.py", "<frozen", "runpy.py")
#: Share of all samples below which a box is told as a part of the one around it.
_FEW = 0.001

Stacks = dict[int, Counter[str]]


@dataclass(frozen=True)
class Profile:
    """What samples say of a process."""

    #: Shares of all processor time, by ``thread;outermost;…;innermost``.
    stacks: Mapping[str, float]
    #: System calls that it made; None where `perf` can't be had. Then no stack has the kernel's part.
    calls: float | None


class Sampling:
    """Takes samples of a process until it is told to end.

    :param folder: where what it writes goes meanwhile
    :param seconds: for how long the interpreter is looked at
    :param spy: the program `py-spy`; None for a process that runs no Python
    :param project: whose files Python's frames are of
    """

    def __init__(
        self, process: Process, folder: Path, seconds: int, spy: Path | None, project: Path
    ) -> None:
        self._perf, self._spied, self._sources = (
            folder / "perf.data",
            folder / "spy.txt",
            project / "src",
        )
        self._spy: subprocess.Popen[str] | None = None
        self._tools: list[subprocess.Popen[str]] = []
        for old in (self._perf, self._spied):
            old.unlink(missing_ok=True)
        try:
            self._begin(str(process.pids[0]), seconds, spy)
        except BaseException:  # Nobody would end them.
            self.__exit__()
            raise

    def _begin(self, pid: str, seconds: int, spy: Path | None) -> None:
        if _may_perf():
            how = ("-q", "-e", "cpu-clock", "-F", str(_PERF_RATE), "-g", "-o", str(self._perf))
            count = ("perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", pid)
            self._tools.append(_run(*count))
            self._tools.append(_run("perf", "record", *how, "-p", pid))
        if spy:
            form = ("--format", "raw", "--threads", "--gil", "--nonblocking")
            much = ("--rate", str(_SPY_RATE), "--duration", str(seconds))
            files = ("--output", str(self._spied), "--pid", pid)
            self._spy = _run(str(spy), "record", *form, *much, *files)
        self._wait_for_beginning()

    def _wait_for_beginning(self) -> None:
        """They say so: `perf` by the head of its file, `py-spy` in its first line."""
        deadline = time.monotonic() + _PATIENCE
        while self._tools and time.monotonic() < deadline:
            if self._perf.exists() and self._perf.stat().st_size:
                break
            time.sleep(0.05)
        if self._spy and self._spy.stdout:
            select.select([self._spy.stdout], [], [], _PATIENCE)
        time.sleep(_BEGIN)

    def __enter__(self) -> Sampling:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self._tools, *([self._spy] if self._spy else [])):
            if each.poll() is None:
                each.kill()
                each.communicate()
        for made in (self._perf, self._spied):
            made.unlink(missing_ok=True)

    def end(self) -> Profile:
        """Stop, and say what there was.

        :raises RuntimeError: there are no samples, with what the profiler said
        """
        said = [_stop(each) for each in self._tools]
        if self._spy:  # Ends by itself.
            said.append(self._spy.communicate(timeout=_PATIENCE)[0])
        names: dict[int, str] = {}
        python: Stacks = {}
        with contextlib.suppress(OSError):
            lines = self._spied.read_text(encoding="utf-8").splitlines()
            python, names = read_spy(lines, self._sources)
        calls = None
        seen = python
        if self._tools:
            line = next((each for each in said[0].splitlines() if "sys_enter" in each), "")
            number = line.partition(",")[0]
            calls = float(number) if number.isdigit() else None
            fields = ("perf", "script", "-i", str(self._perf), "-F", "tid,ip,sym,dso")
            done = subprocess.run(fields, capture_output=True, text=True, timeout=_PATIENCE)
            seen = read_perf(done.stdout.splitlines())
        found = merge(seen, python, names)
        if said and not found:
            raise RuntimeError(f"no samples: {' | '.join(said)[-200:]}")
        return Profile(found, calls)


def _run(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for us.
    )


def _stop(tool: subprocess.Popen[str]) -> str:
    tool.send_signal(signal.SIGINT)
    return tool.communicate(timeout=_PATIENCE)[0]


def _may_perf() -> bool:
    """Whether `perf` can be had, and takes samples here."""
    if not shutil.which("perf"):
        install("linux-perf")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        trial = ("perf", "stat", "-e", "raw_syscalls:sys_enter,cpu-clock", "true")
        return not subprocess.run(trial, capture_output=True, timeout=_PATIENCE).returncode
    return False


def read_perf(lines: Sequence[str]) -> Stacks:
    """What each thread did on a processor, from what `perf script -F tid,ip,sym,dso` prints."""
    found: Stacks = {}
    frames: list[str] = []
    thread = 0
    for line in [*lines, ""]:
        if not line.strip():
            if frames:
                found.setdefault(thread, Counter())[_kind(frames)] += 1
            frames = []
        elif not line[0].isspace() or (not frames and line.strip().isdigit()):
            thread = int(line.split()[0])
        else:
            frames.append(line.split(None, 1)[-1])
    return found


def _kind(frames: Sequence[str]) -> str:
    """What a sample was of; its frames are ``symbol (library)``, the innermost first."""
    for frame in frames:
        if call := _CALL.match(frame):
            return KERNEL + call[1]
    if "[kernel" in frames[0]:
        return f"{KERNEL}interrupts, and the way into it and out"
    return LOCKS if _LOCKS.match(frames[0]) else INTERPRETER


def read_spy(lines: Sequence[str], sources: Path) -> tuple[Stacks, dict[int, str]]:
    """How often each thread had which stack of functions, and its name, from `py-spy`'s raw form."""
    found: Stacks = {}
    names: dict[int, str] = {}
    for line in lines:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        match = re.match(r"thread \((\d+)\)(?:: (.*))?", thread)
        functions = ";".join(_functions(frames, sources))
        if match and count.isdigit() and functions:
            tid = int(match[1])
            names[tid] = match[2] or "a thread"
            found.setdefault(tid, Counter())[functions] += int(count)
    return found, names


def _functions(frames: Sequence[str], sources: Path) -> Iterator[str]:
    match = None
    for frame in frames:
        match = _FRAME.fullmatch(frame)
        if match and not match["file"].startswith(_FOREIGN):
            name = match["name"].replace("<locals>.", "")
            yield f"{name} ({match['file'].partition('mq_connector/')[2] or match['file']})"
    if match and match["line"] and _hands_over(sources / match["file"], int(match["line"])):
        yield HANDOVER


def _hands_over(file: Path, line: int) -> bool:
    """Whether a line of ours takes a lock or wakes somebody."""
    with contextlib.suppress(OSError, IndexError):
        return bool(_HANDOVER.search(file.read_text(encoding="utf-8").splitlines()[line - 1]))
    return False


def merge(seen: Stacks, python: Stacks, names: Mapping[int, str]) -> dict[str, float]:
    """Shares of the whole, the interpreter's part of each thread shared out by its own samples."""
    found: dict[str, float] = defaultdict(float)
    whole = sum(each.total() for each in seen.values())
    for tid, stacks in seen.items():
        thread = names.get(tid, "other threads")
        for stack, count in stacks.items():
            inner = python.get(tid) if stack == INTERPRETER else None
            total = inner.total() if inner else 1
            for function, times in (inner or {stack: 1}).items():
                found[f"{thread};{function}"] += count / whole * times / total
    return pruned(found)


def pruned(found: Mapping[str, float]) -> dict[str, float]:
    """Each stack down to the last box that has more than a few samples, all that is in it included."""
    whole: dict[str, float] = defaultdict(float)
    for stack, share in found.items():
        for prefix in _prefixes(stack):
            whole[prefix] += share
    kept: dict[str, float] = defaultdict(float)
    for stack, share in found.items():
        thread, *rest = _prefixes(stack)
        kept[next((prefix for prefix in reversed(rest) if whole[prefix] >= _FEW), thread)] += share
    return dict(kept)


def _prefixes(stack: str) -> list[str]:
    frames = stack.split(";")
    return [";".join(frames[: end + 1]) for end in range(len(frames))]
