"""Trying again, and waiting for the broker."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

import pika
from pika.exceptions import AMQPError, ProbableAccessDeniedError

from ...connection.broker import describe, permanent_reason
from ...logs import Logger
from .network_utils import check_port_is_open

_log = Logger(__name__)

#: Seconds between two looks at a broker that isn't there yet.
PAUSE = 0.25


def get_timeout(backoff_factor: float, number_of_retries: int) -> float:
    """Seconds to wait after an attempt: the factor, in seconds, doubled with every further attempt.

    :param number_of_retries: attempts so far, from 1 on
    """
    return float(backoff_factor * 2 ** (number_of_retries - 1))


def retry(
    callback_on_exceeded: str | Callable[..., Any] | None = None,
    callback_on_attempt_failure: str | Callable[..., Any] | None = None,
    num_retries: int = 3,
    backoff_factor: float = 5,
    use_self: bool = False,
    callback_on_attempt_failure_args: list[Any] | None = None,
    callback_on_exceeded_args: list[Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function so that it is called again when it raises.

    :param callback_on_exceeded: called after the last attempt, its result is the function's; without
        it a RuntimeError is raised. With ``use_self``, also the name of a method
    :param callback_on_attempt_failure: called after each attempt that failed, named likewise
    :param num_retries: attempts at the most
    :param backoff_factor: seconds of the first pause, see `get_timeout`
    :param use_self: the function is a method
    :param callback_on_attempt_failure_args: ``"e"`` among them stands for the exception, ``"self"``
        for the instance
    """

    def call(callback: Any, instance: Any, args: list[Any]) -> Any:
        if isinstance(callback, str) and use_self and instance is not None:
            callback = getattr(instance, callback)
        return callback(*args) if callable(callback) else None

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        has_self = "self" in inspect.signature(function).parameters

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            instance = args[0] if has_self and args else None
            if has_self and not use_self:
                args = args[1:]
            failure: Exception | None = None
            for attempt in range(1, num_retries + 1):
                try:
                    return function(*args, **kwargs)
                except Exception as error:
                    failure = error
                    _log.warning("attempt %d at %s: %r", attempt, function.__name__, error)
                stand_for = {"e": failure, "self": instance}
                given = [
                    stand_for.get(each, each) if isinstance(each, str) else each
                    for each in callback_on_attempt_failure_args or []
                ]
                try:
                    call(callback_on_attempt_failure, instance, given)
                except Exception:
                    _log.exception("what follows a failed attempt has failed, too")
                if attempt < num_retries:
                    time.sleep(get_timeout(backoff_factor, attempt))
            _log.error("%s failed %d times", function.__name__, num_retries)
            if callback_on_exceeded:
                return call(callback_on_exceeded, instance, callback_on_exceeded_args or [])
            raise RuntimeError(f"{function.__name__} failed {num_retries} times") from failure

        return wrapper

    return decorator


def wait_for_mq_startup(
    addr: str,
    port: int,
    timeout: float = 60,
    connection_params: pika.ConnectionParameters | None = None,
) -> bool:
    """Wait until the broker takes connections.

    :param timeout: seconds
    :param connection_params: given, a login has to succeed as well
    :returns: whether it does
    :raises pika.exceptions.AMQPError: the broker refuses the login, which waiting doesn't heal
    """
    deadline = time.monotonic() + timeout
    while not is_there(addr, port, connection_params):
        if time.monotonic() >= deadline:
            _log.warning("no broker at %s:%s within %g s", addr, port, timeout)
            return False
        time.sleep(PAUSE)
    return True


def is_there(
    addr: str, port: int, connection_params: pika.ConnectionParameters | None = None
) -> bool:
    """One look of `wait_for_mq_startup`."""
    return check_port_is_open(addr, port) and (
        connection_params is None or check_rmq_is_available(connection_params)
    )


def check_rmq_is_available(connection_params: pika.ConnectionParameters) -> bool:
    """Whether one can log in.

    Access denied to the vhost ``/``, which Neon's brokers lack, also shows that the broker runs.

    :raises pika.exceptions.AMQPError: the broker refuses the login
    """
    vhost = connection_params.virtual_host
    user = getattr(connection_params.credentials, "username", "")
    with SuppressPikaLogging():
        try:
            pika.BlockingConnection(connection_params).close()
        except ProbableAccessDeniedError as error:
            if vhost != "/" and permanent_reason(error, vhost, user):
                raise
            return vhost == "/"
        except (AMQPError, OSError) as error:
            if permanent_reason(error, vhost, user):
                raise
            _log.debug("no broker yet: %s", describe(error))
            return False
    return True


class SuppressPikaLogging:
    """Within its block, pika logs only what is critical."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("pika")
        self._level = self._logger.level

    def __enter__(self) -> None:
        self._logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
