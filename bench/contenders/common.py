"""What all contenders share: where the broker is, and the work on one request.

The codec is the incumbent's, `eval` included: every framework has to do the same work around its
own, and Neon's peers understand no other. Only the generated service brings a codec of its own.
"""

import base64
import json
import os
import time
from typing import Any

HOST = os.environ["BENCH_HOST"]
PORT = int(os.environ["BENCH_PORT"])
VHOST = os.environ["BENCH_VHOST"]
USER = os.environ["BENCH_USER"]
PASSWORD = os.environ["BENCH_PASSWORD"]
URL = f"amqp://{USER}:{PASSWORD}@{HOST}:{PORT}/{VHOST.replace('/', '%2F')}"
QUEUE = os.environ["BENCH_QUEUE"]
#: Deliveries that the broker sends ahead.
PREFETCH = int(os.environ["BENCH_PREFETCH"])
#: Handlers that may run at a time.
WORKERS = int(os.environ["BENCH_WORKERS"])
#: The recovery job needs queues that outlive the broker; all others use Neon's own kind.
DURABLE = os.environ["BENCH_DURABLE"] == "1"
ARGUMENTS: dict[str, Any] = {"x-queue-type": "quorum"} if DURABLE else {}
#: Exchange of events.
EVENTS = os.environ["BENCH_EVENTS"]
#: What a handler does: "echo", "sleep SECONDS", "spin SECONDS", "event": publish one, confirmed; or, where a
#: handler may be async, "async" for the echo, and "async SECONDS" for one that sleeps before.
TASK, _, _seconds = os.environ["BENCH_TASK"].partition(" ")
SECONDS = float(_seconds or 0)
#: Milliseconds after which a reply that nobody fetched goes, as Neon's services set it.
EXPIRATION = "1000"


def spin(seconds: float) -> None:
    """Use that much processor time of this thread, as a handler that computes does."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))


def handle(request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """From a request to (reply queue, its own keys back beside its id)."""
    if TASK == "sleep":
        time.sleep(SECONDS)
    elif TASK == "spin":
        spin(SECONDS)
    message_id = request.pop("message_id")
    queue = request.pop("routing_key")
    return queue, {"echo": request, "message_id": message_id}


def decode(body: bytes | str) -> Any:
    return eval(json.loads(base64.b64decode(body)))


def encode(reply: dict[str, Any]) -> bytes:
    return base64.b64encode(json.dumps(str(reply)).encode())


def answer(body: bytes | str) -> tuple[str, bytes]:
    """From a request's body to (reply queue, reply's body)."""
    queue, reply = handle(decode(body))
    return queue, encode(reply)
