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

from ...connector import MQConnector
from ...consumer import ConsumerThread
from ...consumer.outbox.dead_letters import (
    DEAD,
    DELIVERIES,
    DIED_AT,
    TEXT,
    TYPE,
    VERSION,
)
from ...errors import MQError
from .schemas import Schema, Schemas

#: Of AsyncAPI's specification, and of its words for AMQP 0-9-1.
ASYNCAPI, BINDING = "3.0.0", "0.3.0"
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
_REPLIES = "replies"
_ID: Schema = {"description": "The request's, by which its client knows the reply."}
_BODY = (
    "A JSON object as it is or in base64, or as Neon's clients have it: base64 of a JSON string that holds a "
    "Python literal. The reply comes in the form of its request."
)
_ENVELOPE: Schema = {
    "type": "object",
    "properties": {
        "message_id": {"description": "What the reply is known by; also `context.mq.message_id`."},
        "routing_key": {
            "type": "string",
            "description": "The queue that the reply goes to; without one, and without the property "
            "`reply_to`, there is none.",
        },
    },
}
_ERROR: Schema = {
    "type": "object",
    "required": ["code", "error", "success"],
    "properties": {
        "success": {"const": False},
        "error": {"type": "string", "description": "What was wrong."},
        "code": {"type": "integer", "description": "400: the request is; 500: its handling was."},
        "message_id": _ID,
    },
}
_DEAD_HEADERS: Schema = {
    "type": "object",
    "properties": {
        TYPE: {"type": "string", "description": "The exception's type."},
        TEXT: {"type": "string", "description": "The exception's text."},
        VERSION: {"type": "string", "description": "Of the service."},
        DIED_AT: {"type": "string", "format": "date-time"},
        DELIVERIES: {"type": "integer", "description": "How often it was delivered."},
    },
}


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

    def made(self) -> dict[str, Any]:
        service = self._service
        package = sys.modules.get(type(service).__module__.partition(".")[0])
        version = getattr(package, "__version__", "")
        about = inspect.getdoc(type(service)) or ""
        for consumer in service.consumers.values():
            self._add(consumer)
        servers = _servers(service)
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
        """A consumer: the channel that it receives from, its dead letters, and where its replies go."""
        queue, vhost = consumer.queue, _vhost(consumer, self._service)
        request, reply, trouble = self._shapes(consumer)
        key = self._key(queue)
        taken = self._message(f"{key}.request", request, "A request.", trouble)
        self._channels[key] = {
            "address": queue,
            "description": "The queue that the service consumes.",
            "messages": {"request": taken},
            "bindings": _queue(queue, vhost),
        }
        answers = {
            "reply": self._message(f"{key}.reply", reply, "The answer."),
            "error": self._message("error", _ERROR, "Why there is no answer."),
        }
        replies = self._channels.setdefault(
            _REPLIES,
            {
                "address": None,
                "description": "The queue that a request names as its `routing_key`.",
                "messages": {},
            },
        )
        messages = {f"{key}.reply": answers["reply"], "error": answers["error"]}
        replies["messages"].update(messages)
        self._operations[f"{key}.receive"] = {
            "action": "receive",
            "channel": _to("channels", key),
            "messages": [_to("channels", key, "messages", "request")],
            "bindings": {"amqp": {"ack": True, "bindingVersion": BINDING}},
            "reply": {
                "address": {"location": "$message.payload#/routing_key"},
                "channel": _to("channels", _REPLIES),
                "messages": [_to("channels", _REPLIES, "messages", each) for each in messages],
            },
        }
        if not consumer.is_private:
            self._add_dead(key, queue, vhost, request)

    def _add_dead(self, key: str, queue: str, vhost: str, request: Schema) -> None:
        letter = self._message(f"{key}.dead_letter", request, "A request whose handling failed.")
        self._messages[f"{key}.dead_letter"]["headers"] = _DEAD_HEADERS
        dead = self._key(f"{queue}{DEAD}")
        self._channels[dead] = {
            "address": f"{queue}{DEAD}",
            "description": "Requests whose handling failed, until they are put back or removed.",
            "messages": {"letter": letter},
            "bindings": _queue(f"{queue}{DEAD}", vhost),
        }
        self._operations[f"{dead}.send"] = {
            "action": "send",
            "channel": _to("channels", dead),
            "messages": [_to("channels", dead, "messages", "letter")],
        }

    def _key(self, queue: str) -> str:
        """What a queue's channel is called, as references can have it; another one for each."""
        plain = re.sub(r"[^\w.-]", "_", queue, flags=re.ASCII)
        key, count = plain, 1
        while key in self._channels or key == _REPLIES:
            count += 1
            key = f"{plain}_{count}"
        return key

    def _message(self, name: str, payload: Schema, summary: str, trouble: str = "") -> Schema:
        self._messages[name] = {
            "name": name,
            "summary": summary,
            "description": f"{_BODY} {trouble}".strip(),
            "payload": payload,
        }
        return _to("components", "messages", name)

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
        answer = {"type": "object", "properties": {"message_id": _ID}}
        return {"allOf": [_ENVELOPE, asked]}, {"allOf": [answer, told]}, trouble

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


def _handler(service: MQConnector, consumer: ConsumerThread) -> Callable[..., Any] | None:
    """What says by its hints what a consumer's callback takes and returns."""
    callback = consumer.callback_func
    code = getattr(getattr(callback, "__func__", callback), "__code__", None)
    for name in getattr(code, "co_names", ()):
        found = getattr(service, name, None) if name.startswith(_ANSWER) else None
        if callable(found):
            return typing.cast("Callable[..., Any]", found)
    return None


def _servers(service: MQConnector) -> dict[str, Any]:
    """Where the broker is, by the configuration; nothing where there is none."""
    try:
        settings = service.settings()
    except MQError:
        return {}
    return {
        f"broker{number or ''}": {
            "host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "pathname": service.vhost,
            "protocol": "amqps" if settings.tls else "amqp",
            "protocolVersion": "0-9-1",
        }
        for number, (host, port) in enumerate(settings.hosts)
    }


def _vhost(consumer: ConsumerThread, service: MQConnector) -> str:
    try:
        return str(consumer.connection.address.parameters[0].virtual_host)
    except MQError:  # there is no configuration, which a description can do without
        return service.vhost


def _queue(name: str, vhost: str) -> dict[str, Any]:
    found = {"name": name, "exclusive": False, "autoDelete": False, "vhost": vhost}
    return {"amqp": {"is": "queue", "queue": found, "bindingVersion": BINDING}}


def _to(*path: str) -> Schema:
    return {"$ref": f"#/{'/'.join(path)}"}
