"""The handler of errors of consumers that were given no other."""

from __future__ import annotations

from typing import Any

from ...logs import Logger

_log = Logger(__name__)


def default_error_handler(*args: Any) -> None:
    """Log and raise what was reported; the connector logs that and goes on.

    :raises Exception: with ``args``, such as the thread and its exception
    """
    _log.warning("a consumer without an error handler: %s", args)
    raise Exception(*args)
