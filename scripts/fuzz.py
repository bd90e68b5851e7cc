"""Feed the decoder and the callback path with broken and hostile bodies: fuzz.py [--inputs N] [--seed S].

Each input is a valid body, mutated. Whatever comes of it, it must be a dict that equals what
`ast.literal_eval` makes of the same text, or a `PayloadError`; nothing else may be raised, nothing
may be executed, and through the callback path every message must be settled. What was decoded is
written again, in each form, and must then decode to an equal value, unless that is refused. A failure
prints the input and its seed and ends with exit code 1.
"""

from __future__ import annotations

if __name__ == "__main__":
    import interrupts  # noqa: F401  (before the rest, whose loading it covers)

import argparse
import ast
import base64
import json
import logging
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

CONNECTOR = Path("<<cookiecutter.service_slug>>/src/<<cookiecutter.package_name>>")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / CONNECTOR))

from mq_connector import payload  # noqa: E402
from mq_connector.errors import PayloadError  # noqa: E402
from mq_connector.payload.request import Request  # noqa: E402
from mq_connector.testing import Harness  # noqa: E402

#: Texts that have a meaning somewhere, to be put in anywhere.
TOKENS = (
    "'", '"', "\\", "\\x", "\\u12", "\\N{DASH}", "\n", "\t", "\0", "{", "}", "[", "]", "(", ")", ",",
    ":", "None", "True", "null", "true", "NaN", "inf", "-", "+", "1e999", "0x1f", "1_0", "1j", "b'",
    "r'", "f'{x}'", "...", "set()", "#", "'''", '"""', "__import__('os')", "lambda: 0", "{}" * 9,
    "[" * 150, "-" * 150, "9" * 5000, "\ud800", "\u2028", "é", "😀",
)  # fmt: skip
SEEDS: tuple[Any, ...] = (
    {"text": "what is the weather like", "lang": "en-us", "message_id": "0" * 32, "n": 1},
    {"a": (1, 2), "b": b"\x00\xff", "c": {1, 2}, "d": None, "e": True, "f": -1.5e-9, "g": [{}]},
    {"quotes": "it's", "both": 'it\'s "so"', "escapes": "a\\b\n\t\x00é😀", "": {}},
    {"context": {"mq": {"message_id": "x", "routing_key": "y"}}, "big": 10**40, "z": 1 + 2j},
)


def mutate(text: str, chance: random.Random) -> str:
    """Change a text in one to four places."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text) + 1)
        kind = chance.random()
        if kind < 0.5:
            text = text[:at] + chance.choice(TOKENS) + text[at:]
        elif kind < 0.8:
            text = text[:at] + text[at + chance.randint(1, 8) :]
        else:
            end = at + chance.randint(1, 30)
            text = text[:at] + text[at:end] * 2 + text[end:]
    return text


def inputs(count: int, seed: int) -> Any:
    """Bodies, and the literal in them where they are of that form."""
    chance = random.Random(seed)
    for _ in range(count):
        data = chance.choice(SEEDS)
        literal = mutate(str(data), chance)
        kind = chance.random()
        if kind < 0.8:
            yield base64.b64encode(json.dumps(literal).encode()), literal
        elif kind < 0.9:
            yield mutate(json.dumps(literal), chance).encode(errors="surrogatepass"), None
        else:
            raw = bytearray(payload.encode(data if data is not SEEDS[3] else SEEDS[0]))
            for _ in range(chance.randint(1, 4)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            yield bytes(raw), None


def expected(literal: str) -> Any:
    """What the reference makes of it; None where it refuses or there is no dict."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in literals
            value = ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    """As a service's callback begins."""
    Request.decode(body, properties)


def run(count: int, seed: int, progress: bool = False) -> Counter[str]:
    """Try so many inputs; raises AssertionError at the first that is dealt with wrongly."""
    ledger: Counter[str] = Counter()
    harness = Harness(handle)
    begin = time.monotonic()
    for number, (body, literal) in enumerate(inputs(count, seed), 1):
        try:
            decoded = payload.decode(body)
            ledger["decoded"] += 1
        except PayloadError:
            decoded = None
            ledger["refused"] += 1
        if decoded is not None:
            for form in payload.Form:
                ledger[_written(decoded, form)] += 1
        if literal is not None:
            reference = expected(literal)
            if repr(decoded) != repr(reference):
                # A bound of ours, on depth, is the one thing that the reference doesn't have.
                assert decoded is None and _is_deep(literal), (seed, number, body, reference)
                ledger["beyond our bounds"] += 1
        outcome = harness.send_body(body)
        assert outcome.settled == ("dead-letter" if decoded is None else "ack"), (
            seed,
            number,
            body,
        )
        ledger["through the callback"] += 1
        if progress and number % 100_000 == 0:
            print(f"{number} inputs, {time.monotonic() - begin:.0f} s, {dict(ledger)}", flush=True)
    return ledger


def _written(data: dict[Any, Any], form: payload.Form) -> str:
    """Write a dict, and see what a reader gets."""
    try:
        body = payload.encode(data, form)
    except PayloadError:
        return f"not written as {form.value}"
    assert payload.decode(body) == data, (form, data)
    return f"written as {form.value}"


def _is_deep(literal: str) -> bool:
    return sum(literal.count(bracket) for bracket in "{[(") > payload.MAX_DEPTH


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Fuzz the decoder and the callback path.")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("mq_connector").setLevel(logging.CRITICAL)  # a line for each refusal
    ledger = run(options.inputs, options.seed, progress=True)
    print(f"seed {options.seed}: {options.inputs} inputs, {dict(ledger)}, nothing else raised")


if __name__ == "__main__":
    main()
