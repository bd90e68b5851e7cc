"""A live view of a service in a terminal, from what its processes and its broker tell."""

from .watch import Options, watch

__all__ = ["Options", "watch"]
