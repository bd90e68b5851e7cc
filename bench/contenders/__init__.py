"""Who is measured: one small program for each, as its own documentation recommends."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..service import QUEUE

FOLDER = Path(__file__).parent
#: The generated service, and the yardstick of all ratios.
OURS, RAW = "ours", "raw-select"
#: The same on pika's other connection.
BLOCKING = "raw-blocking"
#: The yardstick again, reading as much at a time as the generated service does.
WIDE = "raw-select-64k"
#: Those that are compiled, and the client that only acknowledges: the limit of the broker.
C, GO, LIMIT = "c", "go", "limit"
#: Rows that ratios are taken of; they are measured more often than the rest.
MAIN = (OURS, RAW, WIDE, C, GO)


def plain(queue: str, body: bytes) -> bytes:
    """A request as every client of Neon's sends it."""
    return body


def dramatiq_envelope(queue: str, body: bytes) -> bytes:
    """A request as dramatiq's actors take it."""
    message = {
        "queue_name": queue,
        "actor_name": "on_request",
        "args": [body.decode()],
        "kwargs": {},
        "options": {},
        "message_id": uuid.uuid4().hex,
        "message_timestamp": int(time.time() * 1000),
    }
    return json.dumps(message).encode()


@dataclass(frozen=True)
class Contender:
    """One row of the tables."""

    name: str
    label: str
    #: Environment that it runs in: ``requirements-<peer>.txt``.
    peer: str
    #: What comes after the Python of that environment; "{workers}" is filled in.
    command: tuple[str, ...]
    #: In which way it does less or more than the others.
    note: str = ""
    #: Whether it can run several handlers at a time by means of its own.
    concurrent: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    #: Arguments of the queue that it insists on, instead of Neon's plain transient one.
    queue: Mapping[str, Any] = field(default_factory=dict)
    envelope: Callable[[str, bytes], bytes] = plain
    #: Whether it is a program of its own, without Python.
    compiled: bool = False


CONTENDERS = (
    Contender(
        OURS,
        "**the generated service**",
        "service",
        ("-m", "{package}"),
        "exactly as rendered; decodes without `eval`; replies are `mandatory`, one that finds no "
        "queue is sent again; errors are answered and dead-lettered",
    ),
    Contender(
        RAW,
        "pika SelectConnection, bare loop",
        "pika",
        ("raw_select.py",),
        "less: no reconnecting, no error handling, and a handler that blocks stops the heartbeats; "
        "with several workers a thread pool, as pika's example of threads has it",
    ),
    Contender(
        BLOCKING,
        "pika BlockingConnection, bare loop",
        "pika",
        ("raw_blocking.py",),
        "less: as the bare loop above",
        concurrent=False,
    ),
    Contender(
        "neon-message",
        "neon-mq-connector, `send_message`",
        "neon",
        ("neon.py", "select", "message"),
        "its usual way: a connection for every reply, which also declares the reply queue; "
        "its prefetch is fixed at 50",
        concurrent=False,
    ),
    Contender(
        "neon-select",
        "neon-mq-connector, select, reply on the channel",
        "neon",
        ("neon.py", "select", "channel"),
        "its prefetch is fixed at 50; manual acknowledgement, where its own default is automatic",
        concurrent=False,
    ),
    Contender(
        "neon-blocking",
        "neon-mq-connector, blocking, reply on the channel",
        "neon",
        ("neon.py", "blocking", "channel"),
        "as above",
        concurrent=False,
    ),
    Contender(
        "faststream",
        "FastStream",
        "faststream",
        ("faststream_app.py",),
        "more: waits for the broker's confirm of every reply; validates the body's type",
    ),
    Contender(
        "aio-pika",
        "aio-pika",
        "aio-pika",
        ("aio_pika_app.py", "confirms"),
        "more: waits for the broker's confirm of every reply",
    ),
    Contender(
        "aio-pika-bare",
        "aio-pika without confirms",
        "aio-pika",
        ("aio_pika_app.py", "no-confirms"),
        "the same without what it does more",
    ),
    Contender(
        "kombu",
        "kombu",
        "kombu",
        ("kombu_app.py",),
        "adds a content type and headers to every reply; one handler at a time by design; less: its "
        "replies leave on another connection than its acknowledgements, unconfirmed",
        concurrent=False,
    ),
    Contender(
        "amqpstorm",
        "amqpstorm",
        "amqpstorm",
        ("amqpstorm_app.py",),
        "several workers are several channels, as in its scalable consumer; after the broker's death "
        "its consumer goes on waiting on a connection that is gone",
    ),
    Contender(
        "nameko",
        "nameko",
        "nameko",
        ("nameko_app.py",),
        "waits for the broker's confirm of every reply; built on eventlet, which is deprecated; "
        "last released in 2021",
    ),
    Contender(
        "dramatiq",
        "dramatiq",
        "dramatiq",
        ("-m", "dramatiq", "dramatiq_app", "--processes", "1", "--threads", "{workers}"),
        "requests come in its own JSON envelope, to its own kind of queue, for it takes no others; "
        "it has no replies over RabbitMQ, so the actor publishes them, unconfirmed and on another "
        "connection than its acknowledgements; CPU and memory are those of "
        "all its processes",
        env={"dramatiq_queue_prefetch": "{prefetch}"},
        queue={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{QUEUE}.XQ"},
        envelope=dramatiq_envelope,
    ),
    Contender(
        C,
        "C, librabbitmq",
        "librabbitmq",
        (),
        "less: a bare loop, no reconnecting, no error handling, one handler at a time; its parser knows "
        "what Neon's clients send of Python's literals: texts, numbers, lists and dicts",
        compiled=True,
    ),
    Contender(
        GO,
        "Go, amqp091-go",
        "amqp091-go",
        (),
        "less: as the one in C; its library reads on a goroutine of its own, so it may use more than one "
        "core",
        compiled=True,
    ),
)
#: Acknowledges, and does nothing else.
ONLY_ACKS = Contender(
    LIMIT,
    "the broker's limit: a client that only acknowledges",
    "librabbitmq",
    (),
    env={"BENCH_ONLY_ACK": "1"},
    compiled=True,
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
#: Those that run on Python.
PYTHON = tuple(contender.name for contender in CONTENDERS if not contender.compiled)
