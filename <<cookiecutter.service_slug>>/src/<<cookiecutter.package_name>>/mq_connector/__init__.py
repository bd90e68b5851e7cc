"""A connector for services that live on RabbitMQ: no message lost, no consumer dead in silence.

Names are imported when they are first used, so that the health check needn't load pika.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client
    from .connection import Connection
    from .connector import MQConnector
    from .consumer import Channel, ConsumerThread
    from .errors import MQError, RequestError, RetryMessage
    from .handlers.life import every
    from .handlers.responding import respond
    from .payload.request import REPLY_PROPERTIES, Request
    from .publisher import Publisher

__all__ = [
    "REPLY_PROPERTIES",
    "Channel",
    "Client",
    "Connection",
    "ConsumerThread",
    "MQConnector",
    "MQError",
    "Publisher",
    "Request",
    "RequestError",
    "RetryMessage",
    "every",
    "respond",
]

_MODULES = {
    "Channel": "consumer",
    "Client": "client",
    "Connection": "connection",
    "ConsumerThread": "consumer",
    "MQConnector": "connector",
    "MQError": "errors",
    "REPLY_PROPERTIES": "payload.request",
    "Publisher": "publisher",
    "Request": "payload.request",
    "RequestError": "errors",
    "RetryMessage": "errors",
    "every": "handlers.life",
    "respond": "handlers.responding",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
