"""Logging that no thread can die of, and lines that nobody outside can forge."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .errors import ConfigurationError, printable

#: Characters of an exception's text that a line of the log has; all of it comes with DEBUG.
LONGEST = 4096

#: Seconds after which a complaint that was heard before is news again.
_FORGOTTEN_AFTER = 600.0
#: Complaints that are remembered at a time, and repetitions after which every next one so many is a line.
_REMEMBERED, _AT_LEAST_EVERY = 16, 64


#: What a line is about, by name.
About = Mapping[str, object] | None


class Logger:
    """A logger of the standard library whose filters and handlers may raise without an effect.

    A filter that raises, or a handler whose stream is closed, would otherwise end the thread that logs,
    and with it a worker or the loop.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        #: As `logging.Logger.isEnabledFor`, of which no more than one look-up in a dict is left.
        self.is_enabled = self._logger.isEnabledFor

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: Any = None,
        about: About = None,
    ) -> None:
        """As `logging.Logger.log`.

        :param about: what the line is about, by name: the record's attribute ``about``, which
            `JsonFormatter` writes out
        """
        extra = None if about is None else {"about": about}
        try:
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3, extra=extra)
        except BaseException as error:  # there is nowhere else to say it
            if _is_interruption(error):
                raise

    def debug(self, message: str, *args: object, exc_info: Any = None, about: About = None) -> None:
        """As `logging.Logger.debug`; `about` as for `log`."""
        self.log(logging.DEBUG, message, *args, exc_info=exc_info, about=about)

    def info(self, message: str, *args: object, about: About = None) -> None:
        """As `logging.Logger.info`; `about` as for `log`."""
        self.log(logging.INFO, message, *args, about=about)

    def warning(self, message: str, *args: object, about: About = None) -> None:
        """As `logging.Logger.warning`; `about` as for `log`."""
        self.log(logging.WARNING, message, *args, about=about)

    def error(self, message: str, *args: object, exc_info: Any = None, about: About = None) -> None:
        """As `logging.Logger.error`; `about` as for `log`."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info, about=about)

    def exception(self, message: str, *args: object) -> None:
        """As `logging.Logger.exception`."""
        self.log(logging.ERROR, message, *args, exc_info=True)

    def critical(self, message: str, *args: object) -> None:
        """As `logging.Logger.critical`."""
        self.log(logging.CRITICAL, message, *args)


class TextFormatter(logging.Formatter):
    """A line for a person: time with its zone, level and message.

    Whatever a message holds that isn't printable, line breaks included, stands there as Python writes it;
    the lines of a traceback are indented. So no text from outside looks like a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        message = record.getMessage()
        lines = [f"{_time(record)} {record.levelname:<8} {printable(message, len(message))}"]
        lines += (f"    {printable(each, len(each))}" for each in _traceback(self, record))
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what the message is about, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        line: dict[str, object] = dict(getattr(record, "about", None) or {})
        line |= {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        traceback = _traceback(self, record)
        if traceback:
            line["traceback"] = "\n".join(traceback)
        # In ASCII, so that no terminal obeys what is in it.
        return json.dumps(line, default=repr)


#: By the values of ``LOG_FORMAT``.
FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}


def level_of(env: Mapping[str, str]) -> int:
    """The level that ``LOG_LEVEL`` names.

    :raises ConfigurationError: there is no such level
    """
    level = logging.getLevelName((env.get("LOG_LEVEL") or "INFO").upper())
    if not isinstance(level, int):
        raise ConfigurationError(
            f"LOG_LEVEL is {env['LOG_LEVEL']!r}; it must be DEBUG, INFO, WARNING, ERROR or CRITICAL"
        )
    return level


def form_of(env: Mapping[str, str]) -> type[logging.Formatter]:
    """The form that ``LOG_FORMAT`` names.

    :raises ConfigurationError: there is no such form
    """
    form = (env.get("LOG_FORMAT") or "text").lower()
    if form not in FORMATTERS:
        raise ConfigurationError(f"LOG_FORMAT is {env['LOG_FORMAT']!r}; it must be text or json")
    return FORMATTERS[form]


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
    return f"{name}: {printable(text, LONGEST)}" if text else name


def _time(record: logging.LogRecord) -> str:
    """When it happened, with the zone of this machine: ``2026-01-31T12:00:00.000+01:00``."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Lines of a record's traceback and stack; none for most."""
    text = formatter.formatException(record.exc_info) if record.exc_info else ""
    if record.stack_info:
        text = f"{text}\n{record.stack_info}"
    return [each for each in text.split("\n") if each]


def _is_interruption(error: BaseException) -> bool:
    """Whether somebody at a terminal wants the program to end, for which no other thread is told."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )
