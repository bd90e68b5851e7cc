"""Where the broker is, and what the operator has set; loads neither pika nor the rest of the connector."""

from .environment import environment
from .files import FILE_NAME, look_up, places, read, unwrap
from .limits import KINDS, Limits, check_ranges, metrics_port, tracing
from .names import mistaken
from .settings import Settings, load
from .tls import TLS

__all__ = [
    "FILE_NAME",
    "KINDS",
    "TLS",
    "Limits",
    "Settings",
    "check_ranges",
    "environment",
    "load",
    "look_up",
    "metrics_port",
    "mistaken",
    "places",
    "read",
    "tracing",
    "unwrap",
]
