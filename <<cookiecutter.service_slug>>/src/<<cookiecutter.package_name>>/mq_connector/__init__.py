"""A connector for services that live on RabbitMQ: no message lost, no consumer dead in silence.

Names are imported when they are first used, so that the health check needn't load pika.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client
    from .compat.utils.client_utils import send_mq_request
    from .connection import Connection
    from .connector import MQConnector
    from .consumer import ConsumerThread
    from .errors import MQError, RetryMessage
    from .publisher import Publisher
    from .request import REPLY_PROPERTIES, Request

__all__ = [
    "REPLY_PROPERTIES",
    "Client",
    "Connection",
    "ConsumerThread",
    "MQConnector",
    "MQError",
    "Publisher",
    "Request",
    "RetryMessage",
    "send_mq_request",
]

_MODULES = {
    "Client": "client",
    "Connection": "connection",
    "ConsumerThread": "consumer",
    "MQConnector": "connector",
    "MQError": "errors",
    "REPLY_PROPERTIES": "request",
    "Publisher": "publisher",
    "Request": "request",
    "RetryMessage": "errors",
    "send_mq_request": "compat.utils.client_utils",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
