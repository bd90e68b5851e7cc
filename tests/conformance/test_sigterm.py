"""How a moved service ends: its main thread waits for something of its own, or for nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest
from baked import CONNECTOR, outside
from waiting import eventually

from .lab import Lab

pytestmark = pytest.mark.broker

#: A service as Neon's are: it runs, and then its main thread does something else. Its handler takes as
#: long as the message says; what it prints tells the test where it is.
PROGRAM = """
import json, os, signal, sys, threading, time
sys.path[:0] = [sys.argv[1]]
from mq_connector.compat import signals
from mq_connector.compat.connector import MQConnector
from mq_connector.compat.utils.network_utils import b64_to_dict

def say(*words):
    print(*words, flush=True)

def slow(channel, method, properties, body):
    say("begun")
    time.sleep(b64_to_dict(body)["seconds"])
    say("done")

connector = MQConnector(json.loads(sys.argv[2]), "conformance")
connector.vhost = sys.argv[3]
connector.register_consumer("it", connector.vhost, sys.argv[4], slow)
def start():
    connector.run(run_sync=False)
def run():
    start()
    say("running")
exec(sys.argv[5])
"""

#: What the main thread does.
WAITS = {
    "sleeps on": "run()\nwhile True: time.sleep(1)",
    "ends": "run()",
    "waits for an event": "run()\nthreading.Event().wait()",
    "waits for any signal": "run()\nsignal.pause()\nsignal.pause()",
    "waits for a lock": "run()\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "waits for a consumer": "run()\nthreading.Thread.join(connector.consumers['it'])",
    "waits for a thread of its own": (
        "run()\nown = threading.Thread(target=time.sleep, args=(600,), daemon=True)\nown.start()\nown.join()"
    ),
    "waits for another signal, in a call that isn't Python's": "run()\nsignal.sigwait([signal.SIGUSR1])",
    "runs it on a thread": "threading.Thread(target=run).start()\nthreading.Event().wait()",
    "waits for its own handler, and ends": (
        "start()\nevent = threading.Event()\nsignal.signal(signal.SIGTERM, lambda *_: event.set())\n"
        "say('running')\nevent.wait()\nsay('main ends')"
    ),
    "has its own handler first, and ends": (
        "event = threading.Event()\n"
        "signal.signal(signal.SIGTERM, lambda *_: event.set())\nrun()\nevent.wait()\nsay('main ends')"
    ),
    "chains its own handler": (
        "start()\nbefore = signal.getsignal(signal.SIGTERM)\n"
        "def chained(*given):\n    say('main ends')\n    before(*given)\n"
        "signal.signal(signal.SIGTERM, chained)\nsay('running')\nthreading.Event().wait()"
    ),
    "is an event loop": "import asyncio\nrun()\nasyncio.run(asyncio.sleep(600))",
}


class Running:
    """The program, consuming."""

    def __init__(self, lab: Lab, main: str, within: float | None = None) -> None:
        self.lab, self.queue = lab, lab.name()
        if within is not None:
            main = f"signals.WITHIN = {within}\n{main}"
        words = [json.dumps(lab.config()), lab.vhost, self.queue, main]
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", PROGRAM, str(CONNECTOR.parent), *words],
            env=outside(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.wait_for("running")

    @property
    def output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def wait_for(self, words: str) -> None:
        line = self.output.readline()
        if line != f"{words}\n":
            self.process.kill()
            raise AssertionError(f"{line!r}, not {words!r}: {self.process.communicate()[1]}")

    def handle(self, seconds: float) -> None:
        """Have it handle a message that takes so long."""
        self.lab.peer().send(self.queue, {"seconds": seconds})
        self.wait_for("begun")

    def end(self, within: float = 60) -> tuple[int, str, str]:
        """Wait for its end; returns its exit code and what it has said meanwhile.

        :param within: seconds until it counts as hung, far less than what it mustn't wait for
        """
        output, errors = self.process.communicate(timeout=within)
        return self.process.returncode, output, errors


@contextmanager
def running(lab: Lab, main: str, within: float | None = None) -> Iterator[Running]:
    program = Running(lab, main, within)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


@pytest.mark.parametrize("waits", WAITS)
def test_the_first_sigterm_drains_and_ends_the_process_wherever_its_main_thread(
    lab: Lab, waits: str
) -> None:
    with running(lab, WAITS[waits]) as program:
        program.handle(0.7)
        program.process.send_signal(signal.SIGTERM)
        code, output, errors = program.end()
        assert "done\n" in output, errors
        assert ("main ends" in output) == ("main ends" in WAITS[waits])
        assert code == 0, errors
        assert "Traceback" not in errors and "ignored" not in errors
        peer = lab.peer()
        eventually(lambda: peer.count(program.queue) == 0)


def test_what_the_main_thread_has_to_clean_up_it_cleans_up_when_all_is_drained(lab: Lab) -> None:
    main = (
        "run()\nimport atexit\natexit.register(say, 'at exit')\ntry:\n    threading.Event().wait()\n"
        "finally:\n    connector.stop()\n    say('cleaned up', connector.consumers['it'].is_alive())"
    )
    with running(lab, main) as program:
        program.handle(0.5)
        program.process.send_signal(signal.SIGTERM)
        code, output, errors = program.end()
        assert output == "done\ncleaned up False\nat exit\n", errors
        assert code == 0


def test_several_connectors_drain_at_the_same_time(lab: Lab) -> None:
    main = (
        "other = MQConnector(json.loads(sys.argv[2]), 'conformance')\nother.vhost = connector.vhost\n"
        "other.register_consumer('it', other.vhost, sys.argv[4], slow)\n"
        "other.run(run_sync=False)\nrun()\nthreading.Event().wait()"
    )
    with running(lab, main) as program:
        program.handle(1)
        program.handle(1)
        began = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        code, output, errors = program.end()
        assert (code, output) == (0, "done\ndone\n"), errors
        assert time.monotonic() - began < 30


def test_a_second_sigterm_ends_at_once(lab: Lab) -> None:
    with running(lab, WAITS["waits for an event"], within=600) as program:
        program.handle(600)
        program.process.send_signal(signal.SIGTERM)
        program.process.send_signal(signal.SIGTERM)  # an echo of the first
        with pytest.raises(subprocess.TimeoutExpired):
            program.process.wait(1)
        program.process.send_signal(signal.SIGTERM)
        code, output, _ = program.end()
        assert code == 1
        assert "done" not in output
        peer = lab.peer()
        eventually(lambda: peer.count(program.queue) == 1)


@pytest.mark.parametrize("waits", ["waits for an event", "ends"])
def test_past_the_deadline_a_handler_that_hangs_keeps_no_process_alive(
    lab: Lab, waits: str
) -> None:
    with running(lab, WAITS[waits], within=1.5) as program:
        program.handle(600)
        program.process.send_signal(signal.SIGTERM)
        code, _, errors = program.end()
        assert code == 1
        assert "not finished in time" in errors


def test_past_the_deadline_a_thread_of_the_services_own_keeps_no_process_alive(lab: Lab) -> None:
    main = (
        "run()\nthreading.Thread(target=time.sleep, args=(600,)).start()\nthreading.Event().wait()"
    )
    with running(lab, main, within=1.5) as program:
        program.process.send_signal(signal.SIGTERM)
        code, _, errors = program.end()
        assert code == 1
        assert "keeps the process from its end" in errors


def test_a_main_thread_that_swallows_every_exception_ends_all_the_same(lab: Lab) -> None:
    main = "run()\nwhile True:\n    try:\n        time.sleep(1)\n    except BaseException:\n        pass"
    with running(lab, main, within=1.5) as program:
        program.process.send_signal(signal.SIGTERM)
        assert program.end()[0] == 1


def test_who_handles_sigterm_himself_decides(lab: Lab) -> None:
    main = (
        "start()\nsignal.signal(signal.SIGTERM, lambda *_: say('heard'))\nsay('running')\n"
        "while True: time.sleep(0.1)"
    )
    with running(lab, main) as program:
        program.process.send_signal(signal.SIGTERM)
        program.wait_for("heard")
        program.handle(0)
        program.wait_for("done")
        assert program.process.poll() is None


@pytest.mark.parametrize("when", ["before", "afterwards"])
def test_a_connector_that_does_not_run_takes_no_part_in_how_a_process_ends(
    lab: Lab, when: str
) -> None:
    main = {
        "before": "say('running')\nthreading.Event().wait()",
        "afterwards": "run()\nconnector.stop()\nsay('stopped')\nthreading.Event().wait()",
    }
    with running(lab, main[when]) as program:
        if when == "afterwards":
            program.wait_for("stopped")
        program.process.send_signal(signal.SIGTERM)
        assert program.end()[0] == -signal.SIGTERM


def test_a_forked_child_has_signals_of_its_own(lab: Lab) -> None:
    main = (
        "run()\nimport multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "for _ in range(20):\n"
        "    child = context.Process(target=time.sleep, args=(60,))\n"
        "    child.start()\n    child.terminate()\n    child.join()\n"
        "    assert child.exitcode == -signal.SIGTERM, child.exitcode\n"
        "say('children ended')\nthreading.Event().wait()"
    )
    with running(lab, main) as program:
        program.wait_for("children ended")
        program.handle(0)
        program.wait_for("done")
        program.process.send_signal(signal.SIGTERM)
        assert program.end()[0] == 0


def test_it_ends_as_the_first_process_of_a_container_does(lab: Lab) -> None:
    """Which the kernel doesn't end by a signal that nobody handles; needs the right to make namespaces."""
    able = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True)
    if able.returncode:
        pytest.skip("no process namespaces here")
    words = [json.dumps(lab.config()), lab.vhost, lab.name(), WAITS["waits for an event"]]
    program = [sys.executable, "-B", "-c", PROGRAM, str(CONNECTOR.parent), *words]
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", *program],
        env=outside(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        [child] = _children(process.pid)
        os.kill(child, signal.SIGTERM)
        assert process.wait(60) == 0


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def test_a_process_that_is_served_ends_in_spite_of_a_handler_that_hangs(lab: Lab) -> None:
    """`serve` has handlers of its own."""
    main = (
        "import mq_connector.connector\nmq_connector.connector.DRAIN = 0.5\n"
        "threading.Timer(1, say, ['running']).start()\nsys.exit(connector.serve())"
    )
    with running(lab, main, within=1.5) as program:
        program.handle(600)
        program.process.send_signal(signal.SIGTERM)
        assert program.end()[0] == 1


def test_any_service_can_be_asked_whether_it_runs(lab: Lab) -> None:
    """The handler of signals holds no service: one that is given up is gone."""
    import gc
    import weakref

    connector = lab.connector()
    connector.run(run_sync=False, run_consumers=False)
    connector.stop()
    gone: Any = weakref.ref(connector)
    lab._closing.clear()
    del connector
    eventually(lambda: (gc.collect(), gone() is None)[1])
