"""What a service tells of itself: an AsyncAPI document, and a page made of it."""

from .document import document, printed
from .page import page

__all__ = ["document", "page", "printed"]
