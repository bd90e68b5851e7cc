"""What a service asks others, and what it publishes, from any handler or thread."""

from .caller import Caller
from .words import Calling

__all__ = ["Caller", "Calling"]
