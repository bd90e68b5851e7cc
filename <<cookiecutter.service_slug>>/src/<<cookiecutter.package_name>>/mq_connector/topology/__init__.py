"""Exchanges that a consumer hears, and the queue of its own that it may have for them."""

from .subscription import KINDS, Subscription

__all__ = ["KINDS", "Subscription"]
