"""The channel that a callback gets."""

from .front import Channel

__all__ = ["Channel"]
