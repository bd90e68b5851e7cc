"""A container's first process outlives the one that serves, passes signals on, and says how that one ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from baked import CONNECTOR
from mq_connector import first

#: As the command line does it, but for the number of the process.
PROGRAM = """
import logging, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from mq_connector import first
logging.basicConfig(format="%(levelname)s %(message)s")
first._COUNTS = (sys.argv[3],)
first._LIMITS = (sys.argv[4],)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
first.stay_behind(True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("serving", flush=True)
exec(sys.argv[2])
"""


def run(tmp_path: Path, code: str, end: bool = False) -> subprocess.CompletedProcess[str]:
    counts, limit = tmp_path / "counts", tmp_path / "limit"
    counts.write_text("low 0\noom 3\noom_kill 2\n")
    limit.write_text(f"{256 << 20}\n")
    words = [sys.executable, "-c", PROGRAM, str(CONNECTOR.parent), code, str(counts), str(limit)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        begun = process.stdout.readline()
        if end:
            process.send_signal(signal.SIGTERM)
        out, said = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, begun + out, said)


@pytest.mark.parametrize(
    ("code", "ends"),
    [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGABRT)", 134)],
)
def test_it_ends_as_the_one_that_serves_without_a_word(
    tmp_path: Path, code: str, ends: int
) -> None:
    done = run(tmp_path, code)
    assert (done.returncode, done.stdout, done.stderr) == (ends, "serving\n", "")


def test_a_signal_reaches_the_one_that_serves(tmp_path: Path) -> None:
    assert run(tmp_path, "time.sleep(60)", end=True).returncode == 9


def test_a_kill_for_memory_is_named_with_the_limit(tmp_path: Path) -> None:
    code = (
        "open(first._COUNTS[0], 'w').write('oom_kill 3\\n'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = run(tmp_path, code)
    assert done.returncode == 137
    [line] = done.stderr.splitlines()
    assert line.startswith("ERROR killed by the kernel for memory, of which it has 256 MiB: give")


def test_another_kill_is_told_from_it(tmp_path: Path) -> None:
    done = run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 137
    [line] = done.stderr.splitlines()
    assert line.startswith("ERROR killed (SIGKILL), but not for this container's own memory")


def test_what_others_leave_behind_is_taken_up(tmp_path: Path) -> None:
    code = "os.fork() or os._exit(5); os.wait(); sys.exit(4)"
    assert run(tmp_path, code).returncode == 4


def test_where_nothing_counts_there_were_no_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "_COUNTS", ("/nowhere",))
    monkeypatch.setattr(first, "_LIMITS", ("/nowhere",))
    assert first.kills() == 0
    assert first.describe(True).startswith("killed by the kernel for memory: give")


def test_any_other_process_just_goes_on() -> None:
    first.stay_behind()
