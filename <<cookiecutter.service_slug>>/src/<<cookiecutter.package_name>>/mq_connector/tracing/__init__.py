"""Spans of what a service handles, asks and publishes, for OpenTelemetry.

Nothing here is loaded unless ``MQ_TRACING`` is set.
"""

from .tracing import Tracing

__all__ = ["Tracing"]
