"""Time one decoder in a process of its own: decoder_program.py PACKAGE DECODER CASE."""

import ast
import base64
import json
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, sys.argv[1])
from mq_connector import payload

REFERENCE = {
    "text": "what is the weather like in Kyiv tomorrow",
    "lang": "en-us",
    "user": "alice",
    "n": 4711,
    "message_id": "3f2b8a1c9d4e4f6a8b7c6d5e4f3a2b1c",
    "routing_key": "bench_replies",
}
CONTEXT = {"source": ["skills"], "session": {"id": "default", "ttl": -1, "spoken": True}}
DATA = {
    "reference request": REFERENCE,
    "quotes and escapes": {**REFERENCE, "text": 'it\'s "quoted",\nsaid Zoë\t\\o/ ' * 4},
    "nested": {**REFERENCE, "context": {**CONTEXT, "history": [CONTEXT] * 8, "none": None}},
    "64 KiB of text": {**REFERENCE, "text": "what is the weather like " * 1960},
    "list of 1000 numbers": {**REFERENCE, "scores": [i / 7 for i in range(1000)]},
}
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "ours": payload.decode,
    "literal_eval": lambda body: ast.literal_eval(json.loads(base64.b64decode(body))),
    "eval": lambda body: eval(json.loads(base64.b64decode(body))),
    "json": lambda body: json.loads(base64.b64decode(body)),
}
data = DATA[sys.argv[3]]
decode = DECODERS[sys.argv[2]]
text = data if sys.argv[2] == "json" else str(data)
body = base64.b64encode(json.dumps(text).encode())
assert decode(body) == data


def seconds(count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        decode(body)
    return time.process_time() - began


count = 10
while (used := seconds(count)) < 0.05:
    count *= 2
print(json.dumps(min(used, *(seconds(count) for _ in range(5))) / count * 1e6))
