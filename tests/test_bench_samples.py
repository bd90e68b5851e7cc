"""What the benchmark measures of a process, and what it draws: processor time, samples, plots, flames."""

from __future__ import annotations

import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from waiting import eventually

from bench import flame, plot, sampling
from bench.jobs import profile
from bench.process import Process
from bench.results import Spread


def test_processor_time_is_that_of_the_process_and_its_children(tmp_path: Path) -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    wait = "import time; time.sleep(30)"
    program = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {burn + wait!r}])\n"
    log = tmp_path / "log"
    with Process([sys.executable, "-c", program + burn + wait], {}, tmp_path, log) as process:
        eventually(lambda: process.cpu() >= 0.6, what="it computes")
        time.sleep(0.2)
        assert 0.6 <= process.cpu() < 1.2
        pids = process.pids
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids[:1])


def test_a_frozen_process_uses_no_processor_time_until_it_is_thawed(tmp_path: Path) -> None:
    with Process(
        [sys.executable, "-c", "while True: pass"], {}, tmp_path, tmp_path / "log"
    ) as process:
        eventually(lambda: process.cpu() >= 0.1, what="it computes")
        process.freeze()
        frozen = process.cpu()
        time.sleep(0.3)
        assert process.cpu() == frozen > 0
        process.thaw()
        time.sleep(0.5)
        assert process.cpu() > frozen


def test_a_frozen_process_that_is_stopped_hears_of_it(tmp_path: Path) -> None:
    """A signal that comes before its main thread has gone on would never be handled."""
    program = (
        "import pathlib, signal, sys, threading, time\n"
        "def end(*_): pathlib.Path(sys.argv[1]).write_text('ended'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "for _ in range(3): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
        "threading.Event().wait()\n"
    )
    said = [tmp_path / f"said-{number}" for number in range(6)]
    for file in said:
        ready = file.with_suffix(".ready")
        command = [sys.executable, "-c", program, str(file), str(ready)]
        with Process(command, {}, tmp_path, tmp_path / "log") as process:
            eventually(ready.exists, what="it has begun")
            process.freeze()
    assert [file.exists() for file in said] == [True] * len(said)


def test_plots_are_well_formed_and_name_every_row() -> None:
    rows = [
        plot.Bar("ours", Spread(1, 0.5, 2, 3), True),
        plot.Bar("a < b & c", Spread(900, 1, 1000, 3), False),
    ]
    svg = plot.bars("CPU", rows, 1, [plot.Bar("the limit", Spread(5000, 5000, 5000, 3), False)])
    texts = [each.text for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]
    assert {"ours", "a < b & c", "CPU, logarithmic scale", "900.0"} <= set(texts)
    assert "the limit 5\u202f000.0" in texts


PERF = """
  101
\tffffffff81e2f5d0 __x64_sys_sendto ([kernel.kallsyms])
\t          10a929 __libc_send (/usr/lib/libc.so.6)

  101
\tffffffff821ed4e6 do_syscall_64 ([kernel.kallsyms])

  101
\t           fd8f7 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
\t    7f14d14129c0 [unknown] ([unknown])

  101
\t           fd8f7 PyDict_GetItem (/usr/lib/libpython3.11.so.1.0)

  102
\t           fd8f7 take_gil (/usr/lib/libpython3.11.so.1.0)
"""
SPY = """\
thread (101): consumer;Thread.run (threading.py:982);work (a/mq_connector/consumer/w.py:1);decode (a/mq_connector/payload/body.py:9) 3
thread (101): consumer;Thread.run (threading.py:982);work (a/mq_connector/consumer/w.py:2) 1
thread (103): mq-io;poll (pika/adapters/select_connection.py:7) 9
"""


def test_samples_of_the_processor_are_shared_out_by_those_of_the_interpreter(
    tmp_path: Path,
) -> None:
    source = tmp_path / "a" / "mq_connector" / "consumer" / "w.py"
    source.parent.mkdir(parents=True)
    source.write_text("decode()\nwith self._lock:\n")
    python, names = sampling.read_spy(SPY.splitlines(), tmp_path)
    seen = sampling.read_perf(PERF.splitlines())
    stacks = sampling.merge(seen, python, names)
    assert stacks == pytest.approx(
        {
            "consumer;kernel: sendto": 0.2,
            "consumer;kernel: interrupts, and the way into it and out": 0.2,
            "consumer;work (consumer/w.py);decode (payload/body.py)": 0.3,
            "consumer;work (consumer/w.py);lock or queue": 0.1,
            "other threads;locks in C": 0.2,
        }
    )
    lines = [line.split(" | ")[0] for line in profile.table(stacks, 50.0)][2:]
    assert len(lines) == len({profile.kind(stack.split(";")) for stack in stacks})
    assert "decoding requests | 15.0 | 30% " in "\n".join(profile.table(stacks, 50.0))
    assert "locks, queues, the interpreter's lock | 15.0 |" in "\n".join(
        profile.table(stacks, 50.0)
    )


def test_what_has_few_samples_is_counted_with_what_is_around_it() -> None:
    few = {f"t;a;b{number}": 0.0005 for number in range(4)}
    assert sampling.pruned({**few, "t;a": 0.1, "t;c": 0.0001}) == pytest.approx(
        {"t;a": 0.102, "t": 0.0001}
    )


def test_a_flame_graph_is_drawing_alone_with_each_box_above_its_caller() -> None:
    root = flame.tree({"t;a <b>;c": 0.5, "t;a <b>": 0.25, "t;d": 0.25}, "all")
    svg = flame.picture("One & all", root, lambda path: "#123456", {"kind": "#123456"})
    document = ElementTree.fromstring(svg)
    tags = {each.tag.rpartition("}")[2] for each in document.iter()}
    assert tags == {"svg", "title", "text", "rect", "g"}
    boxes = {}
    for group in document.iter("{http://www.w3.org/2000/svg}g"):
        title, rect = group[0].text, group[1]
        boxes[title] = [float(rect.get(name, "")) for name in ("x", "y", "width")]
    inner, outer = boxes["c: 50.0%"], boxes["a <b>: 75.0%"]
    assert inner[1] < outer[1] < boxes["all: 100.0%"][1]
    assert outer[0] <= inner[0] and inner[0] + inner[2] <= outer[0] + outer[2]
    assert inner[2] == pytest.approx(outer[2] * 2 / 3, abs=1)
