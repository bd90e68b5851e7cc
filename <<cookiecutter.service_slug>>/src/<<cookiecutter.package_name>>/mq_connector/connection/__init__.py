"""One supervised connection to the broker, and the bytes on it."""

from .supervised import Connection

__all__ = ["Connection"]
