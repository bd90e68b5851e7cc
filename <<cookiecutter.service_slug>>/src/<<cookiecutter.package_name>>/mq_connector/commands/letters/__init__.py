"""Dead letters: what they say, which of them are meant, and the queue that they rest in."""

from .letter import DeadLetter
from .queue import DeadLetterQueue
from .selection import EVERY, Selection, moment

__all__ = ["EVERY", "DeadLetter", "DeadLetterQueue", "Selection", "moment"]
