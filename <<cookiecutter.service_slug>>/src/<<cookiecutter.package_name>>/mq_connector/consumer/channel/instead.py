"""What to use in place of those of pika's names that a callback's channel hasn't."""

from __future__ import annotations

from typing import Any, NoReturn

from ...errors import NotInCallback

_CONSUME = "give the service another ConsumerThread"
_STOP = "stop() of the ConsumerThread ends it"
_TRANSACTION = (
    "what a callback publishes leaves before its message is acknowledged, and what it raises "
    "dead-letters the message"
)
_TOLD = "an answer of the broker is what the method returns, its refusal what that raises"

#: By name: pika's `BlockingChannel` and `Channel`, their attributes included.
INSTEAD = {
    "add_callback": _TOLD,
    "add_on_cancel_callback": "a consumer that is cancelled consumes again by itself",
    "add_on_close_callback": "a channel that is lost is opened again by itself",
    "add_on_flow_callback": "publishing waits by itself while the broker takes nothing",
    "add_on_return_callback": (
        "a reply that comes back is sent again until it expires; a Publisher reports what no queue "
        "takes as Unroutable"
    ),
    "basic_cancel": _STOP,
    "basic_consume": _CONSUME,
    "basic_recover": "basic_nack(delivery_tag) puts a message back, RetryMessage after a pause",
    "callbacks": _TOLD,
    "cancel": _STOP,
    "consume": f"basic_get(queue, auto_ack=True) takes a message; to go on taking them, {_CONSUME}",
    "flow": "basic_qos(prefetch_count=…) bounds what the broker sends ahead",
    "get_waiting_message_count": (
        "queue_declare(queue, passive=True).method.message_count is what waits in a queue"
    ),
    "open": "it is open when the callback gets it, and opened again by itself when it is lost",
    "start_consuming": _CONSUME,
    "stop_consuming": _STOP,
    "tx_commit": _TRANSACTION,
    "tx_rollback": _TRANSACTION,
    "tx_select": _TRANSACTION,
}

#: What isn't there of what is, and what to use instead.
CONFIRMS = (
    "confirm_delivery with a callback",
    "what the broker refuses of what a callback has published dead-letters its message",
)
GET_UNSETTLED = (
    "basic_get without auto_ack=True",
    f"take the message with auto_ack=True; to settle what comes from that queue, {_CONSUME}",
)


class _Instead:
    """Stands under such a name. Not ``__getattr__``, which would slow down all other names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, channel: Any, owner: type) -> NoReturn:
        raise NotInCallback(self._name, INSTEAD[self._name])


def refuse_the_rest(channel: type) -> None:
    """Have a class of channels answer to each such name with what to use instead."""
    for name in INSTEAD:
        setattr(channel, name, _Instead(name))
