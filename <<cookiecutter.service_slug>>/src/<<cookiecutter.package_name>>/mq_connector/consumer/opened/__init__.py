"""One opened channel of a consumer, and what comes and goes on it until it is closed."""

from .bulk import Sizes
from .channel import OpenedChannel
from .messages import Confirms, Delivery, Message, Prefetch
from .observer import Observer

__all__ = ["Confirms", "Delivery", "Message", "Observer", "OpenedChannel", "Prefetch", "Sizes"]
