"""What the service has at the broker, and who may do what there.

Its queues and exchanges are those that its source names; after a change there, or here, run `python3
rabbitmq/provision.py`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from declared import Declared, Reader

#: The service's user at the broker, and its key under `users` in mq_config.json: SERVICE_NAME in service.py, and
#: the name in __main__.py. Another one is written into all three.
SERVICE = "<< cookiecutter.__user_key >>"
#: VHOST in service.py: another one is written into both.
VHOST = "<< cookiecutter.vhost >>"<< '  # fmt: skip' if cookiecutter.vhost[45:] else '' >>
#: What the service's source doesn't name, as where a library makes the consumers: queues that the service
#: consumes, and exchanges that it hears or publishes to. Neon's exchanges are of the type `fanout`.
QUEUES: tuple[str, ...] = ()
EXCHANGES: tuple[str, ...] = ()

#: Key under `users` where Neon's clients look for their credentials, and the user they have there.
CLIENT_KEY = "mq_handler"
CLIENT_USER = "neon_api_utils"

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: Names of the queues at which Neon's clients wait for replies: regular expressions for whole names. The clients
#: may use every queue that matches, except the service's own. Add a pattern if a client is refused (403).
REPLY_QUEUES = (
    "[0-9a-f]{32}",  # a UUID, as most clients do
    _UUID,
    f"[A-Za-z0-9_-]+_{_UUID}",
    "[A-Za-z0-9_]+_output",  # shared by several
    "neon_chat_api_error",
)

#: The service's own queue for replies is deleted when it had no consumer for so long, in milliseconds, as a process
#: that is killed leaves it behind. Neon's services declare the queue, too, so this has to be a policy.
REPLIES = {"expires": 300_000}
DAY = 24 * 60 * 60 * 1000  # Milliseconds, as the broker counts.
#: Bounds of an input queue. Unbounded, a backlog would fill the disk, and then the broker would
#: block everybody; a full queue refuses further requests (basic.nack where the client asked for it).
BACKLOG = {"max-length": 1_000_000, "max-length-bytes": 2**30, "overflow": "reject-publish"}
#: Bounds of the dead-letter queue, beyond which the oldest are deleted: dead letters aren't an archive.
KEPT_DEAD = {
    "max-length": 100_000,
    "max-length-bytes": 2**28,
    "message-ttl": 14 * DAY,
    # Looking at a message counts as a delivery, and since RabbitMQ 4.0 the twentieth look would be
    # its end. The value for "no limit", -1, is refused by 3.10.
    "delivery-limit": 1_000_000_000,
}


def exactly(*patterns: str, but: tuple[str, ...] = ()) -> str:
    """A regular expression for whole names: RabbitMQ searches, so an open one matches anywhere.

    :param but: patterns of names that it doesn't match, whatever the others say
    """
    never = f"(?!({'|'.join(but)})$)" if but else ""
    return f"^{never}({'|'.join(patterns)})$"


@functools.cache
def declared() -> Declared:
    """What the service says of itself, and what is named above.

    :raises Broken: it can't be read
    """
    return Reader(QUEUES, EXCHANGES, VHOST, SERVICE).read()


def reply_queues() -> str:
    """A pattern for the queues at which the service waits for replies."""
    return rf"{re.escape(SERVICE)}\.reply\.[0-9a-f]+"


def service_rights(names: Declared | None = None) -> dict[str, str]:
    """The least that works for the service, in RabbitMQ's three kinds.

    It makes, consumes and probes its own queues, reads what was dead-lettered, and has reply queues
    for what it asks; a subscriber makes its exchange and a queue, and binds the two. It may not make the
    queues that clients wait for replies at: what it answers goes there through the default exchange,
    and a queue that it made after its client had gone would stay for ever.
    """
    names = names or declared()
    queues, hears, publishes = map(escaped, (names.queues, names.hears, names.publishes))
    dead = [rf"{queue}\.dead" for queue in queues]
    probes = [rf"{queue}\.probe\.[0-9a-f]+" for queue in queues]
    own = subscribers(names)
    exchanges = [*hears, *(each for each in publishes if each not in hears)]
    bound = [*queues, *own] if hears else []  # To bind a queue is to write to it.
    return {
        "configure": exactly(*queues, *probes, reply_queues(), *exchanges, *own),
        "write": exactly(r"amq\.default", *publishes, *bound),
        "read": exactly(*queues, *dead, reply_queues(), *hears, *own),
    }


def asking_rights() -> dict[str, str]:
    """What the service needs in another virtual host to ask somebody there."""
    return {
        "configure": exactly(reply_queues()),
        "write": exactly(r"amq\.default"),
        "read": exactly(reply_queues()),
    }


def client_rights(names: Declared | None = None) -> dict[str, str]:
    """The least that works for the user that Neon's clients share.

    They declare the queue they publish to, and RabbitMQ has no right to declare that is not also a
    right to delete. They can't read from it, and have no right at all to what the service keeps beside
    it (`.dead`, `.probe.…`), whatever is added to `REPLY_QUEUES`.

    What no right can forbid: everybody who may publish to the default exchange, which is how requests
    and replies travel, reaches every queue of the vhost by its name, that of the dead letters included.
    """
    names = names or declared()
    queues, exchanges = escaped(names.queues), escaped(names.hears)
    kept = tuple(rf"{queue}\.(dead|probe\..*)" for queue in queues)
    replies = [*REPLY_QUEUES, *(rf"{queue}\.response\.[0-9a-f]+" for queue in queues)]
    return {
        "configure": exactly(*queues, *replies, *exchanges, but=kept),
        "write": exactly(r"amq\.default", *exchanges, but=kept),
        "read": exactly(*replies, but=(*queues, *kept)),
    }


def escaped(names: tuple[str, ...]) -> list[str]:
    """Patterns for just these names."""
    return [re.escape(name) for name in names]


def subscribers(names: Declared) -> list[str]:
    """Patterns of the names that subscribers without a queue give theirs."""
    return [rf"subscriber_{exchange}_[0-9a-f]{{6}}" for exchange in escaped(names.hears)]


def topology(names: Declared | None = None) -> dict[str, Any]:
    """Definitions without users. The input queues are missing: the service declares them by itself.

    It does so without arguments of its own, because with them Neon's clients, who declare it too,
    would be refused (406). So where its dead letters go, and how long it may grow, is policy.
    RabbitMQ takes the policy of highest priority whose every key fits the type of queue: a classic
    queue skips the first and gets the second. To name the type ("quorum_queues") would be clearer,
    but 3.10 doesn't know that and silently imports no queue at all.

    Each input queue has a queue for what can't be handled, and an exchange of the same name that leads
    there; what subscribers can't handle joins that of the first, or has the service's own.
    """
    names = names or declared()
    # A quorum queue keeps a rejected message until the dead-letter queue has confirmed it. It counts lost
    # connections, too, of which an innocent message may see many; what is to blame for one, or comes back
    # on purpose, the service itself bounds much earlier.
    safely = {"dead-letter-strategy": "at-least-once", "delivery-limit": 100}
    made: dict[str, list[dict[str, Any]]] = {"exchanges": [], "queues": [], "bindings": []}
    policies: list[dict[str, Any]] = []
    graves = list(names.queues)
    if names.hears and not graves:
        graves = [SERVICE]
    for queue in graves:
        dead, pattern = f"{queue}.dead", re.escape(queue)
        letters = {"dead-letter-exchange": dead}
        durable = {"name": dead, "vhost": VHOST, "durable": True, "auto_delete": False}
        bound = {"source": dead, "destination": dead, "destination_type": "queue"}
        made["exchanges"] += [{**durable, "type": "fanout", "internal": False, "arguments": {}}]
        made["queues"] += [{**durable, "arguments": {"x-queue-type": "quorum"}}]
        made["bindings"] += [{**bound, "routing_key": "", "vhost": VHOST, "arguments": {}}]
        policies += [
            policy(f"{queue} quorum", pattern, 2, {**letters, **safely, **BACKLOG}),
            policy(f"{queue} classic", pattern, 1, {**letters, **BACKLOG}),
            policy(dead, re.escape(dead), 1, KEPT_DEAD),
        ]
    if names.hears:
        letters = {"dead-letter-exchange": f"{graves[0]}.dead"}
        pattern = "|".join(subscribers(names))
        policies.append(policy(f"{SERVICE} subscribers", pattern, 1, {**letters, **BACKLOG}))
    for vhost in (VHOST, *names.vhosts):
        replies = policy(f"{SERVICE} replies", reply_queues(), 1, REPLIES)
        policies.append({**replies, "vhost": vhost})
    return {
        "vhosts": [{"name": vhost} for vhost in (VHOST, *names.vhosts)],
        "users": [],
        "permissions": [],
        **made,
        "policies": policies,
    }


def policy(name: str, pattern: str, priority: int, definition: dict[str, Any]) -> dict[str, Any]:
    """A policy for the queues of whole names that fit the pattern."""
    return {
        "vhost": VHOST,
        "name": name,
        "pattern": exactly(pattern),
        "apply-to": "queues",
        "priority": priority,
        "definition": definition,
    }
