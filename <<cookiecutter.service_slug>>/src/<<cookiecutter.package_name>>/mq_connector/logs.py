"""Logging that no thread can die of."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from .errors import printable

#: Characters of an exception's text that a line of the log has; all of it comes with DEBUG.
LONGEST = 4096

#: Seconds after which a complaint that was heard before is news again.
_FORGOTTEN_AFTER = 600.0
#: Complaints that are remembered at a time, and repetitions after which every next one so many is a line.
_REMEMBERED, _AT_LEAST_EVERY = 16, 64


class Logger:
    """A logger of the standard library whose filters and handlers may raise without an effect.

    A filter that raises, or a handler whose stream is closed, would otherwise end the thread that logs,
    and with it a worker or the loop.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def log(self, level: int, message: str, *args: object, exc_info: Any = None) -> None:
        """As `logging.Logger.log`."""
        try:
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3)
        except BaseException as error:  # there is nowhere else to say it
            if _is_interruption(error):
                raise

    def debug(self, message: str, *args: object, exc_info: Any = None) -> None:
        """As `logging.Logger.debug`."""
        self.log(logging.DEBUG, message, *args, exc_info=exc_info)

    def info(self, message: str, *args: object) -> None:
        """As `logging.Logger.info`."""
        self.log(logging.INFO, message, *args)

    def warning(self, message: str, *args: object) -> None:
        """As `logging.Logger.warning`."""
        self.log(logging.WARNING, message, *args)

    def error(self, message: str, *args: object, exc_info: Any = None) -> None:
        """As `logging.Logger.error`."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info)

    def exception(self, message: str, *args: object) -> None:
        """As `logging.Logger.exception`."""
        self.log(logging.ERROR, message, *args, exc_info=True)

    def critical(self, message: str, *args: object) -> None:
        """As `logging.Logger.critical`."""
        self.log(logging.CRITICAL, message, *args)


class Complaints:
    """Has what repeats itself logged when it is new, and then ever more rarely: the 2nd, the 4th, the 8th
    time, from the 64th on each 64th; in between it is for DEBUG.

    For one thread.
    """

    def __init__(self) -> None:
        #: How often each was heard, and when last (`time.monotonic`); the latest stands last.
        self._heard: dict[str, tuple[int, float]] = {}

    def level(self, what: str) -> int:
        """Count a complaint.

        :param what: what tells it from others
        :returns: the level at which to log it
        """
        now = time.monotonic()
        times, last = self._heard.pop(what, (0, now))
        times = 1 if now - last > _FORGOTTEN_AFTER else times + 1
        if len(self._heard) == _REMEMBERED:
            del self._heard[next(iter(self._heard))]
        self._heard[what] = (times, now)
        often = times % _AT_LEAST_EVERY and times & (times - 1)
        return logging.DEBUG if often else logging.WARNING


def text_of(error: BaseException) -> str:
    """An exception in one line, with its type; whatever its ``__str__`` does."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as failure:
        if _is_interruption(failure):
            raise
        return f"{name} (which can't be printed)"
    return f"{name}: {printable(text, LONGEST)}"


def _is_interruption(error: BaseException) -> bool:
    """Whether somebody at a terminal wants the program to end, for which no other thread is told."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )
