"""Consumers under the incumbent's names; both kinds are the same here."""

from .blocking_consumer import BlockingConsumerThread
from .select_consumer import SelectConsumerThread

__all__ = ["BlockingConsumerThread", "SelectConsumerThread"]
