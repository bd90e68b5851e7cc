"""Who handles messages: threads that run callbacks, and tasks for what these leave to be awaited."""

from .suspicion import Suspicion
from .workers import Callback, Workers

__all__ = ["Callback", "Suspicion", "Workers"]
