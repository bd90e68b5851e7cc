"""What AsyncAPI documents are made of, as this connector's services have it."""

from __future__ import annotations

from typing import Any

from ...connector import MQConnector
from ...consumer import ConsumerThread
from ...consumer.outbox.dead_letters import DELIVERIES, DIED_AT, TEXT, TYPE, VERSION
from ...errors import MQError
from .schemas import Schema

#: Of AsyncAPI's specification, and of its words for AMQP 0-9-1.
ASYNCAPI, BINDING = "3.0.0", "0.3.0"
ID: Schema = {"description": "The request's, by which its client knows the reply."}
BODY = (
    "A JSON object as it is or in base64, or as Neon's clients have it: base64 of a JSON string that holds a "
    "Python literal. The reply comes in the form of its request."
)
ENVELOPE: Schema = {
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
ERROR: Schema = {
    "type": "object",
    "required": ["code", "error", "success"],
    "properties": {
        "success": {"const": False},
        "error": {"type": "string", "description": "What was wrong."},
        "code": {
            "type": "integer",
            "description": "What the handler says, or 400 (the request is wrong) or 500 (its handling has failed).",
        },
        "message_id": ID,
    },
}
DEAD_HEADERS: Schema = {
    "type": "object",
    "properties": {
        TYPE: {"type": "string", "description": "The exception's type."},
        TEXT: {"type": "string", "description": "The exception's text."},
        VERSION: {"type": "string", "description": "Of the service."},
        DIED_AT: {"type": "string", "format": "date-time"},
        DELIVERIES: {"type": "integer", "description": "How often it was delivered."},
    },
}


def servers_of(service: MQConnector) -> dict[str, Any]:
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


def vhost_of(consumer: ConsumerThread, service: MQConnector) -> str:
    """The virtual host that a consumer is in."""
    try:
        return str(consumer.connection.address.parameters[0].virtual_host)
    except MQError:  # there is no configuration, which a description can do without
        return service.vhost


def queue_binding(name: str, vhost: str) -> dict[str, Any]:
    """What AsyncAPI says of a queue (AMQP bindings)."""
    found = {"name": name, "exclusive": False, "autoDelete": False, "vhost": vhost}
    return {"amqp": {"is": "queue", "queue": found, "bindingVersion": BINDING}}


def to(*path: str) -> Schema:
    """A reference to a part of the document."""
    return {"$ref": f"#/{'/'.join(path)}"}


def exchange_binding(name: str, kind: str, vhost: str) -> dict[str, Any]:
    """What AsyncAPI says of an exchange (AMQP bindings)."""
    found = {"name": name, "type": kind, "vhost": vhost}
    return {"amqp": {"is": "routingKey", "exchange": found, "bindingVersion": BINDING}}
