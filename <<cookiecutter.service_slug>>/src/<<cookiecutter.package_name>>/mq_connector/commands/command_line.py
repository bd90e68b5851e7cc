"""The command line of a service: ``run``, ``request``, ``doctor``, ``describe``, ``dead``, ``top``, ``health``, …"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .. import health
from .terminal import OutputError, complain, guarded, say, show

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from ..connector import MQConnector


#: Seconds that a broker gets to answer who watches.
_BROKER_WITHIN = 3.0


def main(
    name: str, make_service: Callable[[], MQConnector], argv: Sequence[str] | None = None
) -> int:
    """Run one command.

    :param name: the service's name, as its key under ``users`` is called
    :param make_service: makes the service; not called for ``health``, which must be cheap
    :returns: the process's exit code
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(name, lambda: _run(name, partial(_made, name, make_service), words))


def _made(name: str, make_service: Callable[[], MQConnector]) -> MQConnector:
    """The service, whose module is imported by that.

    :raises ServiceError: its own code has raised, which is shown
    :raises ConfigurationError: it has another name, under which ``health`` wouldn't find it
    """
    from ..errors import ConfigurationError, MQError, ServiceError
    from ..logs import text_of

    try:
        service = make_service()
    except MQError:
        raise
    except Exception as error:
        trace = error.__traceback__
        for _ in range(2):  # ours, and what imports the module
            trace = trace.tb_next if trace else None
        show(error, trace)
        raise ServiceError(f"the service can't be made: {text_of(error)}") from error
    if service.service_name != name:
        raise ConfigurationError(
            f"the service is called {service.service_name!r} in its class, and {name!r} in __main__.py, "
            "where its health check takes the name from: write the same into both, and into SERVICE in "
            "rabbitmq/topology.py"
        )
    return service


def _run(name: str, make_service: Callable[[], MQConnector], words: list[str]) -> int:
    if words == ["health"]:
        well, reason = health.check(name)
        if well:
            say(reason)
        else:
            complain(reason)
        return 0 if well else 1

    import argparse

    # The package that this connector is vendored into may have another name than the service.
    package = __name__.rpartition(".mq_connector.")[0] or name
    # No abbreviations: what is typed today would mean something else, or nothing, with the next option.
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}", description=f"The {name} service.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    add = partial(commands.add_parser, allow_abbrev=False)
    serving = add("run", help="serve requests until SIGTERM (the default)")
    serving.add_argument("--reload", action="store_true", help="start anew after each edit")
    # For the processes that --reload starts: a file descriptor.
    serving.add_argument("--standby", type=int, help=argparse.SUPPRESS)
    asking = add(
        "request",
        help="send one request and print the reply as JSON; exit 1 if it is an error",
        description="Send one request and print the reply as JSON. The exit code is 0 for an answer, "
        "and 1 without one or where the reply is an error (success: false, with error or code).",
    )
    asking.add_argument("json", help='the request, such as \'{"text": "hi"}\'')
    asking.add_argument(
        "--timeout", type=_seconds, default=30.0, help="seconds to wait for the reply (30)"
    )
    add("doctor", help="find out what is wrong between configuration, broker and queue")
    describing = add("describe", help="print an AsyncAPI document: queues, messages, types")
    describing.add_argument("--html", action="store_true", help="print a page to look at instead")
    add("connector", help="say which version of the connector this is, and what was changed in it")
    _add_dead(add("dead", help="list the requests whose handling failed"))
    _add_top(add("top", help="show live how the running service does"))
    add("health", help="exit 0 only while the running service is consuming")
    options, unknown = parser.parse_known_args(words)
    # The command's own usage says what there is instead.
    asked = commands.choices.get(options.command, parser)
    if unknown:
        asked.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.command == "dead" and (why := _pointless(options)):
        asked.error(why)

    if options.command == "connector":  # before anything is loaded that isn't Python's own
        from . import inventory

        return inventory.show()

    from ..config import environment
    from ..errors import MQError

    try:
        # The other commands say all they have to say themselves.
        _log_to_stderr(
            environment() if options.command in (None, "run") else {"LOG_LEVEL": "CRITICAL"}
        )
        if options.command == "request":
            from .request import ask

            return ask(make_service(), options.json, options.timeout)
        if options.command == "doctor":
            from .doctor import examine

            return examine(make_service())
        if options.command == "describe":
            from .description import document, page, printed

            say((page if options.html else printed)(document(make_service())))
            return 0
        if options.command == "dead":
            from .dead import Task, follow, show
            from .letters import Selection

            selection = Selection(tuple(options.id), options.reason, options.since, options.limit)
            task = Task(
                selection, options.json, options.export, options.rate, options.purge, options.yes
            )
            if options.watch:
                return follow(make_service(), task)
            return show(make_service(), options.requeue, task)
        if options.command == "top":
            from .session import Session
            from .top import Options, watch

            service = make_service()
            shown = Options(options.at, options.every, options.once)
            return watch(service, shown, lambda: Session(service.address(), _BROKER_WITHIN))
        if options.command == "run" and options.reload:
            from .reload import supervise

            return supervise(package)
        if options.command == "run" and options.standby is not None:
            from .reload import stand_by

            return stand_by(make_service, options.standby)
        from .. import first

        first.stay_behind()
        return make_service().serve()
    except OutputError:
        raise
    except MQError as error:
        complain(f"{name}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _add_dead(parser: argparse.ArgumentParser) -> None:
    """The options of ``dead``."""
    parser.add_argument("--id", action="append", default=[], help="only that of this message_id")
    parser.add_argument(
        "--reason", default="", help="only those of this reason, or of this type of exception"
    )
    parser.add_argument(
        "--since", type=_moment, help="only those that died since: 30m, 2h, 7d, 2026-01-31T12:00"
    )
    parser.add_argument("--limit", type=_number, help="so many of each queue at the most")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--export", default="", metavar="FILE", help="write all of them there, too")
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--requeue", action="store_true", help="put them back into the queue; ends when others come"
    )
    end.add_argument("--purge", action="store_true", help="remove them for good; asks first")
    end.add_argument("--watch", action="store_true", help="go on, and print those that come")
    parser.add_argument(
        "--rate",
        type=_rate,
        default=0.0,
        help="put back so many a second",
    )
    parser.add_argument("--yes", action="store_true", help="let --purge not ask")


def _pointless(options: argparse.Namespace) -> str:
    """Which option of ``dead`` would have no effect; empty if all have."""
    if options.rate and not options.requeue:
        return "--rate goes with --requeue"
    if options.yes and not options.purge:
        return "--yes goes with --purge"
    if options.watch and (options.limit or options.export):
        return f"{'--limit' if options.limit else '--export'} doesn't go with --watch"
    return ""


def _add_top(parser: argparse.ArgumentParser) -> None:
    """The options of ``top``."""
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        type=_place,
        metavar="HOST[:PORT]",
        help="where the service tells what it counts (localhost, MQ_METRICS_PORT); a name may stand for "
        "several processes, and the option be given several times",
    )
    parser.add_argument("--every", type=_seconds, default=2.0, help="seconds between two looks (2)")
    parser.add_argument("--once", action="store_true", help="print one view, and end")


def _place(text: str) -> tuple[str, int]:
    import argparse

    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = text, "0"
    if not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't a host, or a host and a port after a colon"
        )
    return host.strip("[]"), int(port)


def _moment(text: str) -> datetime:
    import argparse

    from .letters import moment

    try:
        return moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> int:
    import argparse

    if not text.isdecimal() or not 0 < len(text) < 10 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number from 1 to 999999999")
    return int(text)


def _rate(text: str) -> float:
    import argparse

    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.001 <= rate <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of letters a second, from 0.001")
    return rate


def _seconds(text: str) -> float:
    import argparse

    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't a number of seconds, above 0 and up to 86400"
        )
    return seconds


def _log_to_stderr(env: Mapping[str, str]) -> None:
    """Set up logging with the level of ``LOG_LEVEL``, in the form of ``LOG_FORMAT``.

    :raises ConfigurationError: there is no such level or form
    """
    from ..logs import form_of, level_of

    level = level_of(env)
    handler = logging.StreamHandler()
    handler.setFormatter(form_of(env)())
    logging.basicConfig(handlers=[handler], level=level)
    # What pika has to say of a lost connection, the connector says in one line of its own.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    logging.getLogger("pika.connection").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not so what pika says, three times for each message, of those that RabbitMQ still sends on a channel that it has
    closed, as after a consumer timeout: they are delivered again on the next one."""
    return "unregistered channel" not in str(record.msg)
