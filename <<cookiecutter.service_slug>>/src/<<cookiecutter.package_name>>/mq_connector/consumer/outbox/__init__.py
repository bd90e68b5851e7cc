"""What handlers publish: when it leaves, and what becomes of it if it comes back."""

from .outbox import Outbox
from .room import Room

__all__ = ["Outbox", "Room"]
