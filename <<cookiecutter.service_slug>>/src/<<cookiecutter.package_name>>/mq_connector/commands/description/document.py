"""The AsyncAPI document of a service: https://www.asyncapi.com/docs/reference/specification/v3.0.0.

It is made of what the service is: its consumers with their queues, and the type hints of its handler. Nobody
is asked, the broker neither.
"""

from __future__ import annotations

import collections.abc
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ...calling.service import pairs
from ...connector import MQConnector
from ...consumer import ConsumerThread
from ...consumer.outbox.dead_letters import DEAD
from ...topology import KINDS, Subscription
from .parts import (
    ASYNCAPI,
    BINDING,
    BODY,
    DEAD_HEADERS,
    ENVELOPE,
    ERROR,
    ID,
    exchange_binding,
    queue_binding,
    servers_of,
    to,
    vhost_of,
)
from .schemas import Schema, Schemas

#: How the methods begin that a callback may leave the answer to, whose hints are told.
_ANSWER = "answer"
#: What a handler that answers in parts is said to return.
_PARTS = (
    collections.abc.Iterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
)
#: Channels for replies, whose queues are named by who asks.
_REPLIES, _OWN_REPLIES = "replies", "own_replies"


def document(service: MQConnector) -> dict[str, Any]:
    """Describe a service.

    :returns: what JSON can hold
    """
    return _Document(service).made()


def printed(found: Mapping[str, Any]) -> str:
    """A document as text, the same from one time to the next."""
    return json.dumps(found, indent=2)


class _Document:
    """Collects a document's parts."""

    def __init__(self, service: MQConnector) -> None:
        self._service = service
        self._schemas = Schemas()
        self._channels: dict[str, Any] = {}
        self._operations: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        #: Keys of channels, by the exchange and its vhost.
        self._exchanges: dict[tuple[str, str], str] = {}

    def made(self) -> dict[str, Any]:
        service = self._service
        package = sys.modules.get(type(service).__module__.partition(".")[0])
        version = getattr(package, "__version__", "")
        about = inspect.getdoc(type(service)) or ""
        for consumer in service.consumers.values():
            self._add(consumer)
        self._add_declared()
        servers = servers_of(service)
        return {
            "asyncapi": ASYNCAPI,
            "info": {
                "title": service.service_name or type(service).__name__,
                "version": version if isinstance(version, str) and version else "0",
                **({"description": about} if about else {}),
            },
            **({"servers": servers} if servers else {}),
            "defaultContentType": "application/json",
            "channels": self._channels,
            "operations": self._operations,
            "components": {"messages": self._messages, "schemas": self._schemas.named},
        }

    def _add(self, consumer: ConsumerThread) -> None:
        """A consumer: the channels that it receives from, its dead letters, and where its replies go."""
        vhost = vhost_of(consumer, self._service)
        request, reply, trouble = self._shapes(consumer)
        if consumer.subscription is not None:
            self._add_exchange(consumer.subscription, vhost, request, trouble)
        if consumer.is_private:
            return  # its queue has another name in each process
        queue = consumer.queue
        key = self._key(queue)
        taken = self._message(f"{key}.request", request, "A request.", trouble)
        self._channels[key] = {
            "address": queue,
            "description": "The queue that the service consumes.",
            "messages": {"request": taken},
            "bindings": queue_binding(queue, vhost),
        }
        replies = {
            f"{key}.reply": self._message(f"{key}.reply", reply, "The answer."),
            "error": self._message("error", ERROR, "Why there is no answer."),
        }
        self._operations[f"{key}.receive"] = {
            **_operation("receive", key, "request"),
            "bindings": {"amqp": {"ack": True, "bindingVersion": BINDING}},
            "reply": self._replies(
                _REPLIES, "The queue that a request names as its `routing_key`.", replies
            ),
        }
        self._add_dead(key, queue, vhost, request)

    def _add_exchange(
        self, subscription: Subscription, vhost: str, message: Schema, trouble: str
    ) -> None:
        """An exchange that a consumer hears."""
        key = self._exchange(subscription.exchange, subscription.kind, vhost)
        name = f"{key}.heard"
        while name in self._messages:  # two consumers may hear one exchange
            name += "_"
        self._channels[key]["messages"][name] = self._message(
            name, message, "An event that the service hears.", trouble
        )
        keys = ", ".join(f"`{each}`" for each in subscription.routing_keys)
        about = {"description": f"With these routing keys: {keys}."} if keys else {}
        self._operations[f"{name}.receive"] = {**_operation("receive", key, name), **about}

    def _add_declared(self) -> None:
        """What the class says that it publishes to, and whom it calls."""
        service = self._service
        for exchange, kind in pairs(service.publishes, KINDS[0]).items():
            key = self._exchange(exchange, kind, service.vhost)
            name = f"{key}.published"
            self._channels[key]["messages"][name] = self._message(
                name, {"type": "object"}, "An event that the service publishes."
            )
            self._operations[f"{key}.send"] = _operation("send", key, name)
        for queue, vhost in pairs(service.calls, service.vhost).items():
            key = self._key(queue)
            asked = self._message(f"{key}.asked", ENVELOPE, "What the service asks.")
            self._channels[key] = {
                "address": queue,
                "description": "The queue of another service.",
                "messages": {"asked": asked},
                "bindings": queue_binding(queue, vhost),
            }
            told = self._message(f"{key}.told", {"type": "object"}, "What it is told.")
            self._operations[f"{key}.send"] = {
                **_operation("send", key, "asked"),
                "reply": self._replies(
                    _OWN_REPLIES, "A queue of the service's own.", {f"{key}.told": told}
                ),
            }

    def _exchange(self, exchange: str, kind: str, vhost: str) -> str:
        """The channel of an exchange, which may be heard and published to; made where it is missing."""
        known = self._exchanges.get((exchange, vhost))
        if known is None:
            known = self._exchanges[exchange, vhost] = self._key(exchange)
            self._channels[known] = {
                "address": exchange,
                "description": f"An exchange of the kind {kind}.",
                "messages": {},
                "bindings": exchange_binding(exchange, kind, vhost),
            }
        return known

    def _replies(self, key: str, about: str, messages: dict[str, Schema]) -> dict[str, Any]:
        """The reply of an operation, whose messages go to a channel without an address."""
        made: dict[str, Any] = {"address": None, "description": about, "messages": {}}
        self._channels.setdefault(key, made)["messages"].update(messages)
        return {
            "address": {"location": "$message.payload#/routing_key"},
            "channel": to("channels", key),
            "messages": [to("channels", key, "messages", each) for each in messages],
        }

    def _add_dead(self, key: str, queue: str, vhost: str, request: Schema) -> None:
        letter = self._message(f"{key}.dead_letter", request, "A request whose handling failed.")
        self._messages[f"{key}.dead_letter"]["headers"] = DEAD_HEADERS
        dead = self._key(f"{queue}{DEAD}")
        self._channels[dead] = {
            "address": f"{queue}{DEAD}",
            "description": "Requests whose handling failed, until they are put back or removed.",
            "messages": {"letter": letter},
            "bindings": queue_binding(f"{queue}{DEAD}", vhost),
        }
        self._operations[f"{dead}.send"] = _operation("send", dead, "letter")

    def _key(self, name: str) -> str:
        """What the channel of a queue or an exchange is called, as references can have it; another for each."""
        plain = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
        key, count = plain, 1
        while key in self._channels or key in (_REPLIES, _OWN_REPLIES):
            count += 1
            key = f"{plain}_{count}"
        return key

    def _message(self, name: str, payload: Schema, summary: str, trouble: str = "") -> Schema:
        self._messages[name] = {
            "name": name,
            "summary": summary,
            "description": f"{BODY} {trouble}".strip(),
            "payload": payload,
        }
        return to("components", "messages", name)

    def _shapes(self, consumer: ConsumerThread) -> tuple[Schema, Schema, str]:
        """Schemas of a consumer's requests and replies; and why its hints can't be read, if so."""
        anything: Schema = {"type": "object"}
        asked, told, trouble = anything, anything, ""
        handler = _handler(self._service, consumer)
        if handler is not None:
            try:
                asked, told = self._of_hints(handler)
            except Exception as error:  # whatever stands in them
                trouble = (
                    f"(The handler's type hints can't be read: {type(error).__name__}: {error}.)"
                )
        answer = {"type": "object", "properties": {"message_id": ID}}
        return {"allOf": [ENVELOPE, asked]}, {"allOf": [answer, told]}, trouble

    def _of_hints(self, handler: Callable[..., Any]) -> tuple[Schema, Schema]:
        hints = typing.get_type_hints(handler)
        first = next(iter(inspect.signature(handler).parameters), "")
        told = hints.get("return", Any)
        in_parts = typing.get_origin(told) in _PARTS
        if in_parts:
            told = (*typing.get_args(told), Any)[0]
        asked, reply = self._schemas.of(hints.get(first, Any)), self._schemas.of(told)
        if in_parts:
            reply = {"allOf": [reply], "description": "One part of several."}
        return asked or {"type": "object"}, reply or {"type": "object"}


def _operation(action: str, channel: str, message: str) -> dict[str, Any]:
    """The service sends or receives one kind of message."""
    return {
        "action": action,
        "channel": to("channels", channel),
        "messages": [to("channels", channel, "messages", message)],
    }


def _handler(service: MQConnector, consumer: ConsumerThread) -> Callable[..., Any] | None:
    """The method whose type hints say what a consumer's callback takes and returns; None if there is none."""
    callback = consumer.callback_func
    code = getattr(getattr(callback, "__func__", callback), "__code__", None)
    for name in getattr(code, "co_names", ()):
        found = getattr(service, name, None) if name.startswith(_ANSWER) else None
        if callable(found):
            return typing.cast("Callable[..., Any]", found)
    return None
