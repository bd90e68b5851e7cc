"""The command line in a process of its own: its terminal, file or pipe may be anything."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from baked import CONNECTOR


def run(*words: str | bytes, output: Any = subprocess.PIPE, **environment: str) -> tuple[int, str]:
    """Run a command in a process of its own; returns its exit code and what it has complained of."""
    code = """
import sys
from mq_connector.commands import main

class Service:
    service_name = "neon_echo"

sys.exit(main("neon_echo", Service))
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *words],
        env={
            **os.environ,
            "PYTHONPATH": str(CONNECTOR.parent),
            "PYTHONUNBUFFERED": "",  # else argparse meets what goes wrong, and keeps it to itself
            **environment,
        },
        stdout=output,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    return done.returncode, done.stderr.decode()


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        code, said = run("--help", output=full)
    assert code == 1
    assert said == "neon_echo: can't write to the standard output: No space left on device\n"


def test_a_reader_that_has_gone_is_none_of_its_faults() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert run("--help", output=writer) == (1, "")
    os.close(writer)


@pytest.mark.parametrize(
    "closing",
    [
        pytest.param("sys.stdout.close()", id="output"),
        pytest.param("sys.stderr.close()", id="errors"),
        pytest.param("os.close(2); logging.error('lost')", id="descriptor of errors"),
    ],
)
def test_a_stream_that_the_service_has_closed_is_none_of_the_command_s_faults(closing: str) -> None:
    code = f"""
import logging, os, sys
from mq_connector.commands import main

class Service:
    service_name = "neon_echo"

    def serve(self):
        {closing}
        return 0

sys.exit(main("neon_echo", Service))
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={**os.environ, "PYTHONPATH": str(CONNECTOR.parent), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1", "utf-8"])
def test_what_is_no_text_is_shown_in_any_encoding(encoding: str) -> None:
    code, said = run(b"\xff\xe4\xf6", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert code == 2
    assert "Traceback" not in said and "usage: python -m neon_echo" in said
    code, said = run("request", b"{\xff \xf0\x9f\x98\x80", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert code == 1
    assert said.startswith("neon_echo: the request isn't valid JSON") and said.count("\n") == 1
