"""Whatever a callback has left behind, the process ends a while after its main thread."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from baked import CONNECTOR

_BEGIN = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from mq_connector.ending import end_after_main, end_process, end_within
"""


def ended(program: str, within: float = 20.0) -> tuple[int, str, float]:
    """Run a program; returns its exit code, what it printed, and how many seconds it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-B", "-c", _BEGIN + program],
        env={"PYTHONPATH": str(CONNECTOR.parent)},
        capture_output=True,
        text=True,
        timeout=within,
    )
    return done.returncode, done.stdout, time.monotonic() - began


@pytest.mark.parametrize(
    "left_behind",
    [
        "threading.Thread(target=time.sleep, args=(300,)).start()",
        "ThreadPoolExecutor(1).submit(time.sleep, 300)",
        "atexit.register(time.sleep, 300)",
    ],
    ids=["a thread", "an executor", "something at exit"],
)
def test_whatever_python_waits_for_at_the_end_is_not_waited_for_long(left_behind: str) -> None:
    code, said, _ = ended(f"{left_behind}\nend_after_main(0.5)\nprint('over', flush=True)")
    assert (code, said) == (1, "over\n")


@pytest.mark.parametrize("how", ["end_after_main(0.5)", "end_within(0.5, 1)", "end_process(1)"])
def test_it_ends_though_no_thread_can_be_started_any_more(how: str) -> None:
    """So it is with Python 3.12 once the main thread has ended."""
    code, said, _ = ended(
        f"""
def refuse(*_):
    raise RuntimeError("can't create new thread at interpreter shutdown")
def last():
    threading.Thread.start = refuse
    {how if "after" not in how else "pass"}
    time.sleep(300)
ThreadPoolExecutor(1).submit(time.sleep, 0)
{how if "after" in how else "pass"}
print('over', flush=True)
atexit.register(last)
"""
    )
    assert (code, said) == (1, "over\n")


def test_a_main_thread_that_has_more_to_do_is_left_alone() -> None:
    code, said, took = ended("end_after_main(0.2)\ntime.sleep(2)\nprint('over')")
    assert (code, said) == (0, "over\n")
    assert took >= 2


@pytest.mark.parametrize("hook", ["threading.excepthook", "sys.excepthook"])
def test_it_ends_though_no_thread_can_be_made(hook: str) -> None:
    """As Python refuses to where a callback has taken away what tells of a thread's error."""
    code, said, _ = ended(f"{hook} = None\nend_within(0.5, 7)\ntime.sleep(300)")
    assert (code, said) == (7, "")


def test_a_signal_that_cannot_be_handled_ends_the_process() -> None:
    code, _, _ = ended(
        """
import os, signal
from mq_connector.ending import Signals
def fail(*_):
    raise OSError(9, "Bad file descriptor")
Signals(fail).install()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(300)
"""
    )
    assert code == 1
