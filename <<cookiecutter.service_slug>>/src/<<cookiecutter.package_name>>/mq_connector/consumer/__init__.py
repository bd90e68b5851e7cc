"""From a delivery to its acknowledgement."""

from .channel import Channel
from .thread import ConsumerThread

__all__ = ["Channel", "ConsumerThread"]
