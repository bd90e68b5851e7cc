"""Bodies of messages: read without running what they hold, and written as Neon's peers expect."""

from .body import MAX_DEPTH, MAX_SIZE, Bounds, Form, bounds, decode, form_of
from .encoding import encode

__all__ = ["MAX_DEPTH", "MAX_SIZE", "Bounds", "Form", "bounds", "decode", "encode", "form_of"]
