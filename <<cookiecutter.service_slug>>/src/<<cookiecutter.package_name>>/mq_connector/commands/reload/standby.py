"""The process of one version of a service: imports it, waits for its turn, and serves.

What is wrong with a version is seen here, in an interpreter of its own, while the one before it serves.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...config import check_ranges
from .version import READY

if TYPE_CHECKING:
    from ...connector import MQConnector


def stand_by(make_service: Callable[[], MQConnector], number: int) -> int:
    """Make the service, and serve when it is its turn.

    :param number: file descriptor of the link to whoever started this process
    :returns: the process's exit code
    :raises ConfigurationError: a setting is out of its range, which `serve` would find too late
    """
    link = socket.socket(fileno=number)
    link.set_inheritable(False)  # what the service starts isn't meant
    service = make_service()
    check_ranges()
    try:
        link.sendall(READY)
        called = link.recv(1)
    except OSError:
        called = b""
    if not called:  # whoever would call has gone
        return 0
    follow = threading.Thread(target=_follow, args=(link, service), name="mq-reload", daemon=True)
    follow.start()
    return service.serve(is_supervised=True)


def _follow(link: socket.socket, service: MQConnector) -> None:
    """Stop the service when the link is closed, unless it stops already."""
    try:
        while link.recv(1):
            pass
    except OSError:
        pass
    if not service.is_stopping:
        os.kill(os.getpid(), signal.SIGTERM)
