"""What a service counts, and the port at which it says so.

Nothing here is loaded unless ``MQ_METRICS_PORT`` is set.
"""

from .metrics import Metrics

__all__ = ["Metrics"]
