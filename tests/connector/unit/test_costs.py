"""What the worst bodies cost in a process of their own: less than the container has."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mq_connector import payload
from mq_connector.payload import MAX_SIZE
from mq_connector.payload.jsontext import MAX_TOKENS

#: MiB that compose.yaml gives the service, and those that sending the reply may take of it: the
#: joined frames, and what the socket doesn't take at once.
CONTAINER, SENDING = 256, 40

#: Decodes what it reads, answers with all of it, and prints the most memory that it has had, in MiB,
#: the CPU seconds, and what it came to.
SCRIPT = """
import pathlib, re, resource, sys, time
sys.path.insert(0, sys.argv[1])
from mq_connector.errors import PayloadError
from mq_connector.payload.request import Request
body = sys.stdin.buffer.read()
began = time.process_time()
try:
    request = Request.decode(body)
    outcome = f"answered with {len(request.encode_reply({'echo': request.data}))} bytes"
except PayloadError as error:
    outcome = f"refused: {error}"
status = pathlib.Path("/proc/self/status")
if status.exists():  # What getrusage says there begins with the memory of the process that forked.
    peak = int(re.search("VmHWM:\\s+(\\d+)", status.read_text())[1]) / 2**10
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(peak, time.process_time() - began, outcome)
"""

#: An emoji makes each character of a text take four bytes, and `\x7f` is printed with four.
LONG = "\U0001f600" + "\x7f" * MAX_SIZE


def filled(text: str, long: str, room: int, dump: Callable[[str], bytes]) -> bytes:
    """A text with as much of `long` in place of its mark as `room` has bytes for once it is dumped."""
    left = room - len(dump(text))
    length = left * 1000 // len(dump(long[:1000]))
    return dump(text.replace("@", long[: length - 10]))


def literal(text: str, long: str = "") -> bytes:
    """A dict in the literal form, of the largest size."""

    def dump(each: str) -> bytes:
        return json.dumps(each, ensure_ascii=False).encode()

    return base64.b64encode(filled(text, long, MAX_SIZE // 4 * 3, dump))


def as_json(text: str, long: str = "") -> bytes:
    """A dict as JSON, of the largest size."""
    return filled(text, long, MAX_SIZE, str.encode)


def full(piece: str, tokens: int) -> str:
    """As many pieces as are allowed, each of so many tokens."""
    return piece * ((MAX_TOKENS - 10) // tokens)


COSTLY: dict[str, Callable[[], bytes]] = {
    "text": lambda: literal("{'a': '@'}", LONG),
    "JSON text": lambda: as_json('{"a": "@"}', LONG),
    "sets and text": lambda: literal(f"{{'a': [{full('{0},', 2)}], 'b': '@'}}", LONG),
    "dicts and text": lambda: as_json(
        f'{{"a": [{full(chr(123) + chr(34) * 2 + ":0},", 3)}0], "b": "@"}}', LONG
    ),
    "too many sets": lambda: literal("{'a': [@]}", "{0}," * MAX_SIZE),
    "too many dicts": lambda: as_json('{"a": [@', '{"":0},' * MAX_SIZE),
    "too many strings": lambda: literal("{'a': @}", "'ab' " * MAX_SIZE),
    "words": lambda: literal("{'a': '@'}", "xyNone" * MAX_SIZE),
    "quotation marks": lambda: literal("{'a': '@'}", 'a"' * MAX_SIZE),
    "escapes": lambda: literal("{'a': ('@',)}", "\\101" * MAX_SIZE),
}


@pytest.mark.slow  # each starts a Python with a large body
@pytest.mark.parametrize("make", COSTLY.values(), ids=COSTLY)
def test_no_body_takes_more_than_the_container_has(make: Callable[[], bytes]) -> None:
    body = make()
    assert MAX_SIZE * 0.98 < len(body) <= MAX_SIZE
    folder = Path(payload.__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT, str(folder)],
        input=body,
        capture_output=True,
        check=True,
    )
    peak, seconds, outcome = done.stdout.decode().split(" ", 2)
    assert float(peak) < CONTAINER - SENDING, outcome
    assert float(seconds) < 10, outcome
