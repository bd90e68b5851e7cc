"""The command line of a service: ``run``, ``request``, ``doctor``, ``dead`` and ``health``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import health

if TYPE_CHECKING:
    from ..connector import MQConnector


def main(
    name: str, make_service: Callable[[], MQConnector], argv: Sequence[str] | None = None
) -> int:
    """Run one command.

    :param name: the service's name, which is also its package's
    :param make_service: makes the service; not called for ``health``, which must be cheap
    :returns: the process's exit code
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["health"]:
        well, reason = health.check(name)
        print(reason, file=sys.stdout if well else sys.stderr)
        return 0 if well else 1

    import argparse

    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=f"The {name} service.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("run", help="serve requests until SIGTERM (the default)")
    asking = commands.add_parser("request", help="send one request and print the reply as JSON")
    asking.add_argument("json", help='the request, such as \'{"text": "hi"}\'')
    asking.add_argument(
        "--timeout", type=_seconds, default=30.0, help="seconds to wait for the reply (30)"
    )
    commands.add_parser(
        "doctor", help="find out what is wrong between configuration, broker and queue"
    )
    burying = commands.add_parser("dead", help="list the requests whose handling failed")
    burying.add_argument("--requeue", action="store_true", help="put them back into the queue")
    commands.add_parser("health", help="exit 0 only while the running service is consuming")
    options = parser.parse_args(words)

    from ..config import environment
    from ..errors import MQError

    try:
        # The other commands say all they have to say themselves.
        _log_to_stderr(
            environment() if options.command in (None, "run") else {"LOG_LEVEL": "CRITICAL"}
        )
        if options.command == "request":
            return _request(make_service(), options.json, options.timeout)
        if options.command == "doctor":
            from .doctor import examine

            return examine(make_service())
        if options.command == "dead":
            from .dead import show

            return show(make_service(), options.requeue)
        return make_service().serve()
    except MQError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _seconds(text: str) -> float:
    import argparse

    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of seconds, up to 86400")
    return seconds


def _log_to_stderr(env: Mapping[str, str]) -> None:
    """Set up logging with the level of ``LOG_LEVEL``.

    :raises ConfigurationError: there is no such level
    """
    from ..errors import ConfigurationError

    level = logging.getLevelName((env.get("LOG_LEVEL") or "INFO").upper())
    if not isinstance(level, int):
        raise ConfigurationError(
            f"LOG_LEVEL is {env['LOG_LEVEL']!r}; it must be DEBUG, INFO, WARNING, ERROR or CRITICAL"
        )
    logging.basicConfig(format="%(asctime)s %(levelname)-8s %(message)s", level=level)
    # What pika has to say of a lost connection, the connector says in one line of its own.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def _request(service: MQConnector, text: str, timeout: float) -> int:
    import secrets

    from ..client import Client
    from ..connection import Connection
    from ..errors import ConfigurationError

    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the request isn't valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigurationError('the request must be a JSON object, such as {"text": "hi"}')
    if not service.consumers:
        raise ConfigurationError("the service has no consumers, so there is nobody to ask")
    consumer = next(iter(service.consumers.values()))
    reply_queue = f"{service.service_name}.reply.{secrets.token_hex(8)}"
    with Client(Connection(consumer.connection.address), reply_queue) as client:
        reply = client.request(consumer.queue, data, timeout)
    print(json.dumps(_as_json(reply), ensure_ascii=False))
    return 0


def _as_json(value: Any) -> Any:
    """What Neon's format has and JSON hasn't, as the nearest that JSON has: keys and bytes as text."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(_as_json(key)): _as_json(each)
            for key, each in value.items()
        }
    if isinstance(value, (set, frozenset)):
        return sorted((_as_json(each) for each in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)
