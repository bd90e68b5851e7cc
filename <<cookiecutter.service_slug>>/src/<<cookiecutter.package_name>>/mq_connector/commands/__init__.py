"""What ``python -m <package>`` can do."""

from .command_line import main

__all__ = ["main"]
