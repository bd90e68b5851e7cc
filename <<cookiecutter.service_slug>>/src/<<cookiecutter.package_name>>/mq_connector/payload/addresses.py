"""Where a reply may go: names that a peer has sent, before anything is published to them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

#: What a client that uses direct reply-to publishes with; the broker makes it one of its own addresses
#: in the property ``reply_to``, and nowhere else (rabbitmq.com/docs/direct-reply-to).
DIRECT = "amq.rabbitmq.reply-to"

#: What RabbitMQ's own names begin with: no client can declare one, but those that the broker draws
#: (``queue_declare("")``) are the usual reply queues outside Neon.
_RESERVED, _DRAWN = "amq.", "amq.gen-"

#: Octets of a short string (AMQP 0-9-1, 4.2.5.3).
LONGEST = 255

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@lru_cache(maxsize=256)  # most clients come again
def is_usual(queue: str) -> bool:
    """Whether this is a name like nearly all others, so that `reply_address` has nothing to object.

    It is remembered, so ask for names of `LONGEST` characters at the most.
    """
    return (
        queue != "" and queue.isascii() and queue.isprintable() and not queue.startswith(_RESERVED)
    )


def is_direct(queue: str) -> bool:
    """Whether this is an address of direct reply-to, made by the broker or by a forger.

    Nobody but the broker can tell the two apart, and RabbitMQ before 3.11 answers a forged one by
    closing the connection (541): publish to it where that costs nobody else.
    """
    return queue.startswith(f"{DIRECT}.")


def reply_address(name: Any, in_property: bool = False) -> str | None:
    """Why a reply can't go to a queue of this name.

    Any other queue may be named, whoever it belongs to: what a service may write to is up to its
    permissions, which the broker checks.

    :param name: as the peer has sent it, of whatever type
    :param in_property: it stood in the property ``reply_to``, not in the body
    :returns: the reason in a few words, all printable; None if it can
    """
    if not isinstance(name, str):
        return f"it is of type {type(name).__name__}, not text"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it holds half a surrogate pair"
    if size > LONGEST:
        return f"it has {size} bytes where AMQP allows {LONGEST}"
    if _CONTROL.search(name):
        return "it holds line breaks or other control characters"
    if name.startswith(_RESERVED) and not name.startswith(_DRAWN):
        if not is_direct(name):
            return f"names that begin with {_RESERVED} are the broker's own"
        if not in_property:
            return "the broker gives an address of this kind in the property reply_to alone"
    return None
